"""Fitting the gain router: kernel ridge on gain = quality(strong) - quality(weak), linear in labels, and calibration.

With K the sum of the kernels and d the labels: alpha = (K + I)^-1 (d - mean), gain = mean + k . alpha. A label of
weight w counts as w labels: rows and targets are scaled by its root. Up to `exact_rows` labels the radial kernel is
exact, beyond them it is Nyström's on `landmarks` labels drawn by the seed. An embedding kernel is the cosine of an
encoder's vectors, which is linear as it stands. Prompts are read by blocks; what is kept of each label are its 89
features, its terms and its row of phi, some three kilobytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from routing_service.embedding.registry import Encoder, make_encoder
from routing_service.routers.base import Floats
from routing_service.routers.gain.kernel import SEPARATION, Points, Shape, Standard, similarities
from routing_service.routers.gain.model import EmbeddingPart, Figures, GainModel
from routing_service.routers.gain.router import GainRouter, encode, minibatches
from routing_service.routers.gain.text_features import NAMES, features, tokens
from routing_service.routers.gain.tfidf import Vocabulary
from routing_service.settings import Settings
from training.data.comparisons import Comparisons
from training.data.labels import DataError, Labels, fingerprint, split
from training.fit.kernel_ridge import root_of_inverse, solve, variance_taken
from training.fit.terms import Coded, TermRows, blocks, code, fit_vocabulary, frequent_words, joined, recode
from training.progress import Progress, silent

__all__ = ["GainOptions", "fit", "fit_labels"]

Vector = npt.NDArray[np.float64]


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


Advance = Callable[[int], None]

WIDTHS = {"gaussian": 0.76, "laplacian": 0.5}


@dataclass(frozen=True, slots=True)
class GainOptions:
    """`term_kernel` 0 means: .05 up to 2,000 labels, .1 from 5,000, in between by a line. `embedding_kernel` 0 means:
    no encoder; .05 is a good weight. `encoder` None is the configured one. `shape` auto means: laplacian where every
    label is a landmark, else gaussian; `width` 0 means: .5 or .76, by the shape.
    """

    feature_kernel: float = 0.15
    term_kernel: float = 0.0
    embedding_kernel: float = 0.0
    encoder: str | None = None
    shape: str = "auto"
    width: float = 0.0
    exact_rows: int = 5000
    landmarks: int = 256
    min_count: int = 2  # labels that a term must stand in
    max_terms: int = 200_000  # the most frequent ones are kept
    calibration_share: float = 0.2  # of the prompts, held out to calibrate on; 0 for none

    def __post_init__(self) -> None:
        if not 0 < self.feature_kernel <= 100:
            raise DataError("feature_kernel must be positive, and not above 100")
        if not all(0 <= number <= 100 for number in (self.term_kernel, self.embedding_kernel, self.width)):
            raise DataError("term_kernel, embedding_kernel and width must be 0 to 100")
        if self.shape not in ("auto", *WIDTHS):
            raise DataError(f"shape: {self.shape[:80]!r} is none of auto, {', '.join(WIDTHS)}")
        if not (0 <= self.exact_rows <= 20_000 and 1 <= self.landmarks <= 4096):
            raise DataError("exact_rows must be 0 to 20,000, landmarks 1 to 4,096")
        if not (self.min_count >= 1 and 1 <= self.max_terms <= 1_000_000):
            raise DataError("min_count must be 1 or more, max_terms 1 to 1,000,000")
        if not 0 <= self.calibration_share <= 0.5:
            raise DataError("calibration_share must be 0 to 0.5")

    def shape_for(self, labels: int) -> Shape:
        if self.shape == "auto":
            return "laplacian" if labels <= self.exact_rows else "gaussian"
        return "laplacian" if self.shape == "laplacian" else "gaussian"


@dataclass(frozen=True, slots=True)
class _Read:
    """What is kept of the prompts of n labels."""

    vocabulary: Vocabulary
    rows: TermRows  # weighted
    features: Floats  # (n, 89), as they are


def fit_model(
    labels: Labels, seed: int, options: GainOptions, encoder: Encoder | None, progress: Progress
) -> GainModel:
    """Fit a model on labels of positive weight. `encoder` is needed for an embedding kernel."""
    root = np.sqrt(labels.weight)
    with progress("reading prompts", 2 * len(labels)) as advance:
        read = _read(labels, root, options, advance)
    shape = options.shape_for(len(labels))
    width = options.width or WIDTHS[shape]
    similar = partial(similarities, width=width, shape=shape)
    standard = Standard.fit(read.features, SEPARATION[shape] / (width if shape == "laplacian" else 1))
    figures = _figures(labels, width, standard.separation, options)
    order = np.random.default_rng(seed).permutation(len(labels))
    landmarks = standard.points(read.features[order[: options.landmarks]])
    inverse = root_of_inverse(similar(landmarks, landmarks))
    scaled = (np.sqrt(figures.feature_kernel) * inverse).astype(np.float32)

    def similar_to_landmarks(start: int, stop: int) -> Points:
        part: Points = similar(standard.points(read.features[start:stop]), landmarks) @ scaled
        return part

    with progress("comparing prompts", len(labels)) as advance:
        phi = _phi(labels, root, similar_to_landmarks, options.embedding_kernel, encoder, advance)
    gram = (phi.T @ phi).astype(np.float64)
    target = root * (labels.gain - figures.mean)
    rank = scaled.shape[1]
    exact, points = None, landmarks
    if len(labels) <= options.exact_rows:
        points = standard.points(read.features)
        exact = _weighted(similar(points, points), figures.feature_kernel, root, phi[:, rank:])
        points = points[order]
    with progress("solving", 1) as advance:
        solution = solve(exact, read.rows, phi, gram, target, figures.term_kernel)
        advance(1)
    inside = (phi.T @ solution.astype(np.float32)).astype(np.float64)
    taken = variance_taken(gram)
    term_weight = figures.term_kernel * read.rows.transposed_times(solution)
    landmark_weight = scaled @ inside[:rank] if exact is None else figures.feature_kernel * (root * solution)[order]
    return GainModel(
        read.vocabulary,
        standard,
        term_weight.astype(np.float16),
        (figures.term_kernel / (1 + figures.term_kernel * read.rows.squares())).astype(np.float16),
        points,
        landmark_weight.astype(np.float32),
        (scaled @ taken[:rank]).astype(np.float32),
        # The scale of a Gaussian process of greatest likelihood; one imaginary label keeps it off zero.
        replace(figures, noise=float(np.sqrt((target @ solution + 0.25) / (labels.weight.sum() + 1)))),
        _embedding(inside[rank:], taken[rank:], options.embedding_kernel) if encoder else None,
        shape,
    )


def _embedding(weight: Vector, taken: Vector, kernel: float) -> EmbeddingPart:
    size = np.sqrt(kernel)
    return EmbeddingPart(kernel, (size * weight).astype(np.float32), (size * taken).astype(np.float32))


def _read(labels: Labels, root: Vector, options: GainOptions, advance: Advance) -> _Read:
    """Two passes over the prompts: which words are frequent, then everything else."""
    prompts = labels.prompts
    frequency = frequent_words(prompts, options.min_count, options.max_terms, advance)
    words = Vocabulary(list(frequency))
    raw = np.empty((len(prompts), len(NAMES)), np.float32)
    coded: list[Coded] = []
    for start, stop in blocks(len(prompts)):
        of_block = []
        for a, b in minibatches(prompts[start:stop]):
            part = slice(start + a, start + b)
            texts = tokens(prompts[part])
            raw[part] = features(prompts[part], texts)
            of_block.append(code(words, texts))
            advance(b - a)
        coded.append(joined(of_block))
    vocabulary, number = fit_vocabulary(coded, frequency, options.min_count, options.max_terms)
    parts = []
    for start, stop in blocks(len(prompts)):
        rows = vocabulary.rows_of(*recode(coded.pop(0), number), stop - start)
        value = (rows.value * root[start:stop][rows.row]).astype(np.float32)
        parts.append(replace(rows, row=rows.row.astype(np.int32), term=rows.term.astype(np.int32), value=value))
    return _Read(vocabulary, TermRows(parts, len(vocabulary)), raw)


def _phi(
    labels: Labels,
    root: Vector,
    radial: Callable[[int, int], Floats],
    embedding_kernel: float,
    encoder: Encoder | None,
    advance: Advance,
) -> Floats:
    """Rows whose products are the dense kernels: Nyström's radial part, then the vectors. Weighted."""
    dimensions = encoder.dimensions if encoder else 0
    phi = np.empty((len(labels), radial(0, 1).shape[1] + dimensions), np.float32)
    rank = phi.shape[1] - dimensions
    for start, stop in blocks(len(labels)):
        phi[start:stop, :rank] = radial(start, stop)
        if encoder is not None:
            phi[start:stop, rank:] = np.sqrt(embedding_kernel) * encode(encoder, labels.prompts[start:stop])
        phi[start:stop] *= root[start:stop, None]
        advance(stop - start)
    return phi


def _figures(labels: Labels, width: float, separation: float, options: GainOptions) -> Figures:
    # One imaginary tie: of a single label half is believed, of many all.
    mean = float(labels.weight @ labels.gain / (labels.weight.sum() + 1))
    term_kernel = options.term_kernel or float(np.interp(len(labels), [2000, 5000], [0.05, 0.1]))
    return Figures(mean, 1.0, term_kernel, options.feature_kernel, width, separation)


def _weighted(radial: Points, feature_kernel: float, root: Vector, vectors: Floats) -> npt.NDArray[np.float64]:
    """The exact dense kernel of weighted labels. `vectors` are weighted already."""
    kernel = radial.astype(np.float64)
    kernel *= feature_kernel * root[:, None]
    kernel *= root
    kernel += vectors @ vectors.T
    return kernel
