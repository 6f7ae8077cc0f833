"""Fitting the gain router and its calibration on held-out prompts. What is fitted is in `training.gain_model`."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from routing_service.embedding.registry import Encoder, make_encoder
from routing_service.routers.gain.router import GainRouter
from routing_service.settings import Settings
from training.comparisons import Comparisons
from training.data import DataError, Labels, fingerprint, split
from training.gain_model import GainOptions, fit_model
from training.methods import Progress, silent

Vector = npt.NDArray[np.float64]

__all__ = ["GainOptions", "fit", "fit_labels"]

CALIBRATION_SEED = 1_000_003
LEAST_HELD_OUT = 100  # labels, to calibrate on
MAX_WEIGHT = 1_000_000


def fit(
    comparisons: Comparisons, *, seed: int, options: GainOptions, settings: Settings, progress: Progress = silent
) -> GainRouter:
    """Fit a router on the comparisons of the pair."""
    return fit_labels(comparisons.labels(), seed=seed, options=options, settings=settings, progress=progress)


def fit_labels(
    labels: Labels,
    *,
    seed: int,
    options: GainOptions | None = None,
    settings: Settings | None = None,
    progress: Progress = silent,
) -> GainRouter:
    """Fit a router on all labels, calibrated if that lowers the error on held-out prompts. Same seed, same router.

    DataError for no labels, gains that are not finite, weights outside 0 to 1,000,000. One-sided data give a router
    that says so with little doubt; a single label moves the mean half its way.
    """
    options = options or GainOptions()
    if not np.isfinite(labels.gain).all():
        raise DataError("gains must be finite")
    if not ((labels.weight >= 0) & (labels.weight <= MAX_WEIGHT)).all():
        raise DataError(f"weights must be 0 to {MAX_WEIGHT:,}: a weight is how many labels a label counts as")
    labels = labels.take(np.flatnonzero(labels.weight > 0))
    if not len(labels):
        raise DataError("there is no label to fit on")
    encoder = make_encoder(settings or Settings(), options.encoder) if options.embedding_kernel else None
    calibration = _calibration(labels, seed, options, encoder, progress)
    model = fit_model(labels, seed, options, encoder, progress)
    if calibration["applied"]:
        figures = replace(model.figures, scale=calibration["scale"], offset=calibration["offset"])
        model = replace(model, figures=figures)
    metadata = {
        "seed": seed,
        "options": asdict(options),
        "data": {"fingerprint": fingerprint(labels), "rows": len(labels), "sources": dict(Counter(labels.source))},
        "metrics": {"calibration": calibration},
    }
    return GainRouter(model, metadata, encoder)


def _calibration(
    labels: Labels, seed: int, options: GainOptions, encoder: Encoder | None, progress: Progress
) -> dict[str, Any]:
    """A line through a router's gains on prompts it has not seen, and the mean squared error there before and after.

    Each half of the held-out prompts is judged by the line through the other half. It is applied where the error falls
    by more than the standard error of its fall: less is noise.
    """
    # Not the seed itself: labels that a caller split off with it would all fall on one side again.
    held, kept = split(labels, options.calibration_share, seed + CALIBRATION_SEED)
    result: dict[str, Any] = {"applied": False, "held_out": len(held), "scale": 1.0, "offset": 0.0}
    if len(held) < LEAST_HELD_OUT or len(kept) < LEAST_HELD_OUT:
        return result
    trial = GainRouter(fit_model(kept, seed, options, encoder, progress), encoder=encoder)
    raw = trial.gains(held.prompts)[0].astype(np.float64)
    first = np.random.default_rng(seed).permutation(len(held)) < len(held) // 2
    line = np.empty_like(raw)
    for half in (first, ~first):
        scale, offset = _line(raw[half], held.gain[half], held.weight[half])
        line[~half] = np.clip(scale * raw[~half] + offset, -1, 1)
    share = held.weight / held.weight.sum()
    before, after = np.square(raw - held.gain), np.square(line - held.gain)
    fall = float(share @ (before - after))
    noise = float(np.sqrt(np.square(share) @ np.square(before - after - fall)))
    result |= {"error_before": float(share @ before), "error_after": float(share @ after), "standard_error": noise}
    if fall > noise:
        scale, offset = _line(raw, held.gain, held.weight)
        result |= {"applied": True, "scale": scale, "offset": offset}
    return result


def _line(raw: Vector, gain: Vector, weight: Vector) -> tuple[float, float]:
    """Weighted least squares. The slope stays positive: calibration never turns a ranking around."""
    mean_raw, mean_gain = np.average(raw, weights=weight), np.average(gain, weights=weight)
    spread = weight @ np.square(raw - mean_raw)
    slope = weight @ ((raw - mean_raw) * (gain - mean_gain)) / spread if spread > 0 else 1.0
    slope = float(np.clip(slope, 0.1, 2))
    return slope, float(mean_gain - slope * mean_raw)
