"""Fitting the gain router: kernel ridge on gain = quality(strong) - quality(weak), linear in labels.

With K the sum of the two kernels and d the labels: alpha = (K + I)^-1 (d - mean), gain = mean + k . alpha. A label of
weight w counts as w labels: rows and targets are scaled by its root. Up to `exact_rows` labels the radial kernel is
exact, beyond them it is Nyström's on `landmarks` labels drawn by the seed. Either way the system is solved by conjugate
gradients, preconditioned by the landmarks' part (Woodbury), and the TF-IDF kernel is never formed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from routing_service.routers.base import Floats
from routing_service.routers.gain import Figures, GainModel, GainRouter, minibatches
from routing_service.routers.rbf import Points, Standard, similarities
from routing_service.routers.text_features import features, tokens
from routing_service.routers.tfidf import Rows, Vocabulary
from routing_service.settings import Settings
from training.comparisons import Comparisons
from training.data import DataError, Labels, fingerprint, split
from training.methods import Progress, silent

Vector = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.floating[Any]]

CALIBRATION_SEED = 1_000_003
LEAST_HELD_OUT = 100  # labels, to calibrate on
MAX_WEIGHT = 1_000_000
VARIANCE_RANK = 64
TOLERANCE = 1e-6  # of the residual; about ten iterations
MAX_ITERATIONS = 500


@dataclass(frozen=True, slots=True)
class GainOptions:
    """`term_kernel` 0 means: .05 up to 2,000 labels, .1 from 5,000, in between by a line."""

    feature_kernel: float = 0.15
    term_kernel: float = 0.0
    width: float = 0.76
    exact_rows: int = 5000
    landmarks: int = 256
    min_count: int = 2  # labels that a term must stand in
    calibration_share: float = 0.2  # of the prompts, held out to calibrate on; 0 for none

    def __post_init__(self) -> None:
        if not (0 < self.feature_kernel <= 100 and 0 < self.width <= 100 and 0 <= self.term_kernel <= 100):
            raise DataError("feature_kernel and width must be positive, term_kernel not negative, none above 100")
        if not (0 <= self.exact_rows <= 20_000 and 1 <= self.landmarks <= 4096 and self.min_count >= 1):
            raise DataError("exact_rows must be 0 to 20,000, landmarks 1 to 4,096, min_count 1 or more")
        if not 0 <= self.calibration_share <= 0.5:
            raise DataError("calibration_share must be 0 to 0.5")


def fit(
    comparisons: Comparisons, *, seed: int, options: GainOptions, settings: Settings, progress: Progress = silent
) -> GainRouter:
    """Fit a router on the comparisons of the pair."""
    with progress("fitting gain", 1):
        return fit_labels(comparisons.labels(), seed=seed, options=options)


def fit_labels(labels: Labels, *, seed: int, options: GainOptions | None = None) -> GainRouter:
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
    calibration = _calibration(labels, seed, options)
    model = _fit(labels, seed, options)
    if calibration["applied"]:
        figures = replace(model.figures, scale=calibration["scale"], offset=calibration["offset"])
        model = replace(model, figures=figures)
    metadata = {
        "seed": seed,
        "options": asdict(options),
        "data": {"fingerprint": fingerprint(labels), "rows": len(labels), "sources": dict(Counter(labels.source))},
        "metrics": {"calibration": calibration},
    }
    return GainRouter(model, metadata)


def _fit(labels: Labels, seed: int, options: GainOptions) -> GainModel:
    texts = tokens(labels.prompts)
    vocabulary = Vocabulary.fit(texts, options.min_count)
    rows = vocabulary.rows(texts)
    standard, points = _points(labels.prompts, texts)
    figures = _figures(labels, standard, options)
    root = np.sqrt(labels.weight)
    order = np.random.default_rng(seed).permutation(len(labels))
    landmarks = points[order[: options.landmarks]]
    root_of_inverse = _root_of_inverse(similarities(landmarks, landmarks, figures.width))
    scaled = (np.sqrt(figures.feature_kernel) * root_of_inverse).astype(np.float32)
    phi = root[:, None].astype(np.float32) * (similarities(points, landmarks, figures.width) @ scaled)
    weighted = replace(rows, value=rows.value * root[rows.row])
    exact = len(labels) <= options.exact_rows
    radial = _exact_kernel(points, root, figures) if exact else (lambda v: phi @ (phi.T @ v.astype(np.float32)))
    target = root * (labels.gain - figures.mean)
    solution = _solve(radial, weighted, phi, target, figures.term_kernel)
    term_weight = figures.term_kernel * weighted.transposed_times(solution)
    squares = replace(weighted, value=weighted.value**2).transposed_times(np.ones(len(labels)))
    return GainModel(
        vocabulary,
        standard,
        term_weight.astype(np.float16),
        (figures.term_kernel / (1 + figures.term_kernel * squares)).astype(np.float16),
        points[order] if exact else landmarks,
        (figures.feature_kernel * (root * solution)[order] if exact else scaled @ (phi.T @ solution)).astype(
            np.float32
        ),
        _reduction(phi, scaled),
        # The scale of a Gaussian process of greatest likelihood; one imaginary label keeps it off zero.
        replace(figures, noise=float(np.sqrt((target @ solution + 0.25) / (labels.weight.sum() + 1)))),
    )


def _points(prompts: Sequence[str], texts: Sequence[list[str]]) -> tuple[Standard, Points]:
    raw = np.concatenate([features(prompts[a:b], texts[a:b]) for a, b in minibatches(prompts)])
    standard = Standard.fit(raw)
    return standard, standard.points(raw)


def _figures(labels: Labels, standard: Standard, options: GainOptions) -> Figures:
    # One imaginary tie: of a single label half is believed, of many all.
    mean = float(labels.weight @ labels.gain / (labels.weight.sum() + 1))
    term_kernel = options.term_kernel or float(np.interp(len(labels), [2000, 5000], [0.05, 0.1]))
    return Figures(mean, 1.0, term_kernel, options.feature_kernel, options.width, standard.separation)


def _root_of_inverse(kernel: Points) -> Vector:
    """T with T T' = the (pseudo-)inverse of the landmarks' kernel, shape (landmarks, rank)."""
    values, vectors = np.linalg.eigh(kernel.astype(np.float64))
    large = values > 1e-6 * values[-1]
    root: Vector = vectors[:, large] / np.sqrt(values[large])
    return root


def _exact_kernel(points: Points, root: Vector, figures: Figures) -> Callable[[Vector], Vector]:
    kernel = similarities(points, points, figures.width).astype(np.float64)
    kernel *= figures.feature_kernel * root[:, None]
    kernel *= root

    def times(vector: Vector) -> Vector:
        product: Vector = kernel @ vector
        return product

    return times


def _solve(radial: Callable[[Vector], Matrix], rows: Rows, phi: Floats, target: Vector, term_kernel: float) -> Vector:
    """(radial + term_kernel X X' + I)^-1 target by preconditioned conjugate gradients."""
    shift = 1 + term_kernel
    inner = np.linalg.inv((phi.T @ phi).astype(np.float64) + shift * np.eye(phi.shape[1]))

    def conditioned(vector: Vector) -> Vector:
        return (vector - phi @ (inner @ (phi.T @ vector))) / shift

    def times(vector: Vector) -> Vector:
        return vector + radial(vector) + term_kernel * rows.times(rows.transposed_times(vector))

    solution = np.zeros_like(target)
    residual = target.copy()
    step = direction = conditioned(residual)
    size = residual @ step
    for _ in range(MAX_ITERATIONS):
        if np.linalg.norm(residual) <= TOLERANCE * np.linalg.norm(target):
            return solution
        moved = times(direction)
        length = size / (direction @ moved)
        solution = solution + length * direction
        residual = residual - length * moved
        step = conditioned(residual)
        size, before = residual @ step, size
        direction = step + size / before * direction
    raise DataError("the fit does not converge: choose smaller kernels, or weights that differ less")


def _reduction(phi: Floats, scaled: Floats) -> Floats:
    """R: what the labels take of the radial kernel's variance at similarities z is |z R|^2, on its largest parts."""
    values, vectors = np.linalg.eigh((phi.T @ phi).astype(np.float64))
    largest = np.argsort(-values)[:VARIANCE_RANK]
    kept = np.maximum(values[largest], 0)
    reduction: Floats = (scaled @ (vectors[:, largest] * np.sqrt(kept / (1 + kept)))).astype(np.float32)
    return reduction


def _calibration(labels: Labels, seed: int, options: GainOptions) -> dict[str, Any]:
    """A line through a router's gains on prompts it has not seen, and the mean squared error there before and after.

    Each half of the held-out prompts is judged by the line through the other half. It is applied where the error falls
    by more than the standard error of its fall: less is noise.
    """
    # Not the seed itself: labels that a caller split off with it would all fall on one side again.
    held, kept = split(labels, options.calibration_share, seed + CALIBRATION_SEED)
    result: dict[str, Any] = {"applied": False, "held_out": len(held), "scale": 1.0, "offset": 0.0}
    if len(held) < LEAST_HELD_OUT or len(kept) < LEAST_HELD_OUT:
        return result
    raw = GainRouter(_fit(kept, seed, options)).gains(held.prompts)[0].astype(np.float64)
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
