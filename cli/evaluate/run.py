"""The measurements of `routebatch evaluate`: every router scores every set, and says how fast it is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.progress import progress_bars
from cli.routers.choice import Chosen, choose, version_number
from cli.stack_access import read_settings
from training.evaluate.assessment import Assessment, assess
from training.evaluate.benchmark_sets import COMPARISONS, Benchmark, Floats
from training.evaluate.dollars import Overhead, Prices
from training.evaluate.published import COST_RATIOS, OVERHEAD, rows_of

if TYPE_CHECKING:
    from routing_service.routers.registry import Router
    from routing_service.settings import Settings

CHUNK = 1024  # prompts between two reports of progress
TIMED = 256  # prompts
WARM_UP = 8

Models = tuple[str | None, str | None]  # strong, weak


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Assessments of the same routers on several sets. `overhead` and `methods` by router, in their order."""

    assessments: list[Assessment]
    overhead: dict[str, Overhead]
    methods: dict[str, str]
    notes: list[str]
    seed: int

    def as_dict(self) -> dict[str, Any]:
        speed = {
            name: {
                "method": self.methods[name],
                "requests_per_second": measured.requests_per_second,
                "usd_per_hour": measured.usd_per_hour,
                "usd_per_million_requests": measured.usd_per_million_requests,
            }
            for name, measured in self.overhead.items()
        }
        keys = ("requests_per_second", "usd_per_million_requests")
        paper = {method: dict(zip(keys, values, strict=True)) for method, values in OVERHEAD.items()}
        return {
            "seed": self.seed,
            "notes": self.notes,
            "benchmarks": [_with_published(assessment) for assessment in self.assessments],
            "overhead": {"routers": speed, "published": paper},
        }


def measure(
    wanted: Sequence[str | None],
    sets: Sequence[Benchmark],
    models: Models,
    usd_per_million: Prices,
    usd_per_hour: float,
    seed: int,
    state_dir: Path | None = None,
) -> Evaluated:
    """Load the routers one after another, and measure each on all sets. UsageError, RoutebatchError as they load."""
    settings = read_settings()
    rates: list[dict[str, Floats]] = [{} for _ in sets]
    overhead: dict[str, Overhead] = {}
    methods: dict[str, str] = {}
    notes: list[str] = []
    for named in wanted:
        chosen = choose(named, *models, settings, state_dir)
        name = named or chosen.router.name
        for rates_by_router, benchmark in zip(rates, sets, strict=True):
            rates_by_router[name] = _win_rates(chosen, benchmark.prompts, f"{name}: {benchmark.name}")
        uncached = choose(named, *models, _uncached(settings), state_dir)
        overhead[name] = Overhead(_requests_per_second(uncached, sets[0].prompts), usd_per_hour)
        methods[name] = chosen.router.name
        notes += [note for benchmark in sets if (note := known(name, chosen.router, benchmark))]
    assessments = [
        assess(benchmark, rates_by_router, usd_per_million, seed=seed)
        for benchmark, rates_by_router in zip(sets, rates, strict=True)
    ]
    return Evaluated(assessments, overhead, methods, notes, seed)


def _win_rates(chosen: Chosen, prompts: list[str], title: str) -> Floats:
    import numpy as np

    parts = []
    with progress_bars() as bars, bars(title, len(prompts)) as advance:
        for start in range(0, len(prompts), CHUNK):
            part = prompts[start : start + CHUNK]
            parts.append(chosen.router.win_rates(part, chosen.strong, chosen.weak))
            advance(len(part))
    return np.concatenate(parts).astype(float)


def known(name: str, router: Router, benchmark: Benchmark) -> str | None:
    """What is to be said of a router whose artifact names the set among the tables that it was fitted on, and of a
    router version on comparisons: re-fits take all that the database has, but for the newest."""
    data = getattr(router, "metadata", {}).get("data", {})
    if benchmark.name in data.get("tables", {}):
        told = f"{name} was fitted on a table called {benchmark.name}"
    elif benchmark.name == COMPARISONS and not benchmark.left_out and _is_version(name) and "tables" not in data:
        told = f"{name} may have been fitted on some of these comparisons"
    else:
        return None
    return (
        f"{told}. Figures on prompts that a router knows say nothing: "
        "fit one on other prompts, or leave those out that it was fitted on (--leave-out)."
    )


def _is_version(name: str) -> bool:
    from routing_service.routers.registry import AUTO

    return name == AUTO or version_number(name) is not None


def _uncached(settings: Settings) -> Settings:
    """Vectors on disk would make a router with an encoder look as fast as one without."""
    return settings.model_copy(update={"embedding": settings.embedding.model_copy(update={"cache_bytes": 0})})


def _requests_per_second(chosen: Chosen, prompts: list[str]) -> float:
    """Of prompts that come together, as a batch's do; spread over the set, after a warm-up."""
    step = -(-len(prompts) // TIMED)
    timed = prompts[::step]
    chosen.router.win_rates(prompts[:WARM_UP], chosen.strong, chosen.weak)
    started = time.perf_counter()
    chosen.router.win_rates(timed, chosen.strong, chosen.weak)
    return len(timed) / max(time.perf_counter() - started, 1e-9)


def _with_published(assessment: Assessment) -> dict[str, Any]:
    name = assessment.benchmark.name
    return {**assessment.as_dict(), "published": {"routers": rows_of(name), "cost_ratios": COST_RATIOS.get(name)}}
