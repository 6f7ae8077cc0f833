"""The candidates of a re-fit: fitted, saved, loaded again as a worker would, and measured beside the serving router."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from routing_service.embedding.registry import make_encoder
from routing_service.errors import ConfigurationError, RoutebatchError
from routing_service.routers.random import RandomRouter
from routing_service.routers.registry import Router, load_router
from routing_service.settings import Settings
from training.data.comparisons import Comparisons, Pair
from training.data.decontamination import SIMILARITY, Decontamination, decontaminated
from training.data.labels import DataError, require_contrast
from training.evaluate.benchmark_sets import COMPARISONS, SETS, Benchmark, load_benchmark
from training.evaluate.metrics import apgr, evaluate
from training.evaluate.qini import qini
from training.fit.methods import METHODS, method
from training.progress import Progress
from training.refit.snapshot import Judged, Parts

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]
LEAST_GAP = 1e-9

__all__ = [
    "Candidate",
    "Measured",
    "fingerprint_of",
    "fit_all",
    "known_methods",
    "load_benchmarks",
    "measured",
    "without",
]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A fitted router and the directory of its artifact."""

    method: str
    router: Router
    directory: Path
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Measured:
    """A router's win rates on the hold-out and on its part of live traffic, and its APGR on the benchmarks.

    `evaluations`: by the name of each set, a fingerprint of it and the router's figures as JSON.
    """

    held: Floats
    live: Floats
    benchmarks: dict[str, float]
    evaluations: dict[str, tuple[str, dict[str, Any]]]


def known_methods(settings: Settings) -> list[str]:
    """The configured methods, each once. ConfigurationError for one that there is not."""
    methods = []
    for name in settings.learning.methods:
        try:
            methods.append(method(name).name)
        except KeyError:
            raise ConfigurationError(f"learning.methods: {name!r} is none of {', '.join(METHODS)}") from None
    return list(dict.fromkeys(methods))


def load_benchmarks(settings: Settings, pair: Pair) -> list[Benchmark]:
    """The configured sets. DataError for one that cannot be read, or where strong is no better, which cannot tell."""
    benchmarks = []
    for name, path in settings.learning.benchmarks.items():
        of_tables = name in SETS
        loaded = load_benchmark(name if of_tables else COMPARISONS, path, pair=None if of_tables else pair)
        if loaded.gain.mean() <= LEAST_GAP:
            raise DataError(
                f"learning.benchmarks.{name}: strong is no better on it, so that it cannot tell routers apart"
            )
        benchmarks.append(replace(loaded, name=name))
    return benchmarks


def without(
    comparisons: Comparisons, benchmarks: Sequence[Benchmark], settings: Settings, progress: Progress
) -> tuple[Comparisons, Decontamination]:
    """The comparisons on prompts that no benchmark asks, or the like of which none asks, and what was left out."""
    limit = settings.learning.benchmark_similarity
    return decontaminated(
        comparisons,
        [prompt for benchmark in benchmarks for prompt in benchmark.prompts],
        encoder=make_encoder(settings) if limit and benchmarks else None,
        similarity=limit or SIMILARITY,
        progress=progress,
    )


def fit_all(
    fitted: Comparisons, settings: Settings, directory: Path, progress: Progress
) -> tuple[list[Candidate], dict[str, str]]:
    """A candidate of every method, and why a method gave none. DataError where not one did."""
    candidates: list[Candidate] = []
    failed: dict[str, str] = {}
    for name in known_methods(settings):
        try:
            candidates.append(_fit(name, fitted, settings, directory / name, progress))
        except RoutebatchError as error:
            failed[name] = str(error)
        except Exception as error:  # another method may do
            log.exception("the method %s cannot be fitted", name)
            failed[name] = f"{type(error).__name__}: {error}"
    if not candidates:
        raise DataError("; ".join(f"{name}: {reason}" for name, reason in failed.items()))
    return candidates, failed


def _fit(name: str, fitted: Comparisons, settings: Settings, directory: Path, progress: Progress) -> Candidate:
    chosen = method(name)
    if chosen.any_pair:
        fitted.require_contrast()
    else:
        require_contrast(fitted.labels())
    seed = settings.learning.seed
    router = chosen.fit(fitted, seed=seed, options=chosen.options(), settings=settings, progress=progress)
    router.save(directory)
    return Candidate(name, load_router(directory, settings), directory, dict(getattr(router, "metadata", {})))


def measured(
    router: Router, parts: Parts, benchmarks: Sequence[Benchmark], pair: Pair, fingerprint: str, seed: int
) -> Measured:
    """Everything that a router is judged by. ScoringError where it has no estimate to give."""
    held, live = (_rates(router, part.prompts, pair) for part in (parts.held, parts.live))
    evaluations = {
        name: (fingerprint, _figures(rates, part, seed))
        for name, rates, part in (("hold-out", held, parts.held), ("live pairs", live, parts.live))
        if len(part)
    }
    by_router = {}
    for benchmark in benchmarks:
        rates = _rates(router, benchmark.prompts, pair)
        by_router[benchmark.name] = apgr(rates, benchmark.gain)
        figures = evaluate(rates, benchmark.gain, seed=seed).as_dict()
        evaluations[benchmark.name] = (fingerprint_of(benchmark), figures)
    return Measured(held, live, by_router, evaluations)


def _rates(router: Router, prompts: Sequence[str], pair: Pair) -> Floats:
    if isinstance(router, RandomRouter):  # what it draws is luck: it is judged by what it knows
        return np.full(len(prompts), 0.5)
    return np.asarray(router.win_rates(prompts, *pair), float) if prompts else np.empty(0)


def _figures(rates: Floats, part: Judged, seed: int) -> dict[str, Any]:
    estimate = qini(rates, part.gain, part.weight)
    of_qini = {"qini": estimate.value, "qini_interval": list(estimate.interval())} if len(part) > 1 else {}
    return evaluate(rates, part.gain, seed=seed).as_dict() | of_qini


def fingerprint_of(benchmark: Benchmark) -> str:
    digest = sha256("\0".join(benchmark.prompts).encode("utf-8", "surrogatepass"))
    digest.update(np.ascontiguousarray(benchmark.gain, "<f8").tobytes())
    return digest.hexdigest()
