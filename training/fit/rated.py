"""What the fits of rated routers share: usable comparisons, their prompts' vectors, calibration, and what to record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from routing_service.embedding.registry import Encoder
from routing_service.errors import ScoringError
from routing_service.routers.bradley_terry.rated_models import Place, RatedRouter
from routing_service.routers.calibration import Calibration
from training.data.comparisons import Comparisons
from training.data.labels import DataError
from training.fit.calibration import calibrated, hold_out
from training.progress import Progress

Half = npt.NDArray[np.float16]
FitRouter = Callable[[Comparisons, Half], RatedRouter]  # comparisons and their prompts' vectors

MOST_MODELS = 2000  # ratings are solved with a matrix of models by models
MAX_WEIGHT = 1_000_000
LEAST_WEIGHT = 1e-30  # less is 0 as a float32, in which weights are kept
CHUNK = 8192  # prompts that are embedded at a time
MOST_HELD_OUT = 2000  # prompts: enough to calibrate on, and scored in a bounded time

__all__ = ["calibrate", "embed", "recorded", "usable"]


def usable(comparisons: Comparisons) -> Comparisons:
    """The comparisons of different models, `models` being those that are compared.

    DataError for none left, and for outcomes or weights that are no numbers or out of bounds.
    """
    if not ((comparisons.outcome >= 0) & (comparisons.outcome <= 1)).all():
        raise DataError("outcomes must be 0 to 1")
    if not ((comparisons.weight >= LEAST_WEIGHT) & (comparisons.weight <= MAX_WEIGHT)).all():
        raise DataError(f"weights must be {LEAST_WEIGHT:g} to {MAX_WEIGHT:,}")
    kept = comparisons.take(np.flatnonzero(comparisons.model_a != comparisons.model_b))
    if not len(kept):
        raise DataError("there is no comparison of two different models to fit on")
    known, place = np.unique(np.r_[kept.model_a, kept.model_b], return_inverse=True)
    if len(known) > MOST_MODELS:
        raise DataError(f"{len(known):,} models are more than {MOST_MODELS:,}, the most that can be rated together")
    first, second = place.astype(np.int32).reshape(2, -1)
    models = [comparisons.models[i] for i in known.tolist()]
    return replace(kept, models=models, model_a=first, model_b=second)


def embed(prompts: Sequence[str], encoder: Encoder, progress: Progress) -> Half:
    """Vectors as they are kept, shape (prompts, dimensions). ScoringError where the encoder gives no finite number."""
    vectors = np.empty((len(prompts), encoder.dimensions), np.float16)
    with progress("embedding prompts", len(prompts)) as advance:
        for start in range(0, len(prompts), CHUNK):
            part = encoder.encode(prompts[start : start + CHUNK], advance)
            bad = ~np.isfinite(part).all(axis=1)
            if bad.any():
                raise ScoringError(f"the encoder gives no finite vector for prompt {start + int(np.argmax(bad)) + 1}")
            vectors[start : start + CHUNK] = part
    return vectors


def calibrate(
    comparisons: Comparisons, vectors: Half, fit: FitRouter, *, share: float, seed: int
) -> tuple[Calibration, dict[str, Any]]:
    """Calibration by a fit without about `share` of the prompts, at most 2,000, as `training.fit.calibration` does it.

    On the comparisons of the pair; where none is named, on all of models of different tiers, the better-rated first.
    """
    held, kept = hold_out(comparisons, min(share, MOST_HELD_OUT / len(comparisons.prompts)), seed)
    if not len(held) or not len(kept):
        return calibrated(np.empty(0), np.empty(0), np.empty(0), seed=seed)
    row = {prompt: number for number, prompt in enumerate(comparisons.prompts)}
    of_held, of_kept = (vectors[[row[prompt] for prompt in side.prompts]] for side in (held, kept))
    router = fit(usable(kept), of_kept)
    rows, first, second, outcome = _oriented(held, router)
    places = [Place(tier, number) for number, tier in enumerate(router.rated.tiers)]
    strength = router.strengths(of_held.astype(np.float32), places)
    prompt = held.prompt[rows]
    rates = 1 / (1 + np.exp(strength[prompt, second] - strength[prompt, first]))
    return calibrated(rates, outcome, held.weight[rows], seed=seed)


def _oriented(
    held: Comparisons, router: RatedRouter
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Rows of comparisons whose models the router knows, those models' numbers there, the stronger first, and the
    outcomes for it."""
    rated = router.rated
    place = {name: number for number, name in enumerate(rated.names)}
    number = np.array([place.get(name, -1) for name in held.models], np.int64)
    a, b = number[held.model_a], number[held.model_b]
    tiers, ratings = np.array([*rated.tiers, -1]), np.array([*rated.ratings, -np.inf])
    if held.pair is not None:
        strong, weak = (place.get(name, -1) for name in held.pair)
        chosen = ((a == strong) & (b == weak)) | ((a == weak) & (b == strong))
        swapped = a == weak
    else:
        chosen = tiers[a] != tiers[b]
        swapped = ratings[a] < ratings[b]
    rows = np.flatnonzero(chosen & (a >= 0) & (b >= 0))
    turn = swapped[rows]
    outcome = np.where(turn, 1 - held.outcome[rows], held.outcome[rows])
    return rows, np.where(turn, b[rows], a[rows]), np.where(turn, a[rows], b[rows]), outcome


def recorded(comparisons: Comparisons, *, seed: int, options: Any, calibration: dict[str, Any]) -> dict[str, Any]:
    """What the artifact says of the fit."""
    data = {
        "fingerprint": comparisons.fingerprint(),
        "rows": len(comparisons),
        "prompts": len(comparisons.prompts),
        "sources": dict(Counter(comparisons.source)),
    }
    return {"seed": seed, "options": asdict(options), "data": data, "metrics": {"calibration": calibration}}
