"""What a fitted gain router is, and how it lies in an artifact."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, get_args

import numpy as np
import numpy.typing as npt
from pydantic import Field

from routing_service.errors import ArtifactError
from routing_service.routers.artifact import Artifact, Tensors, parsed
from routing_service.routers.base import Floats
from routing_service.routers.gain.kernel import Points, Shape, Standard
from routing_service.routers.gain.text_features import WIDTHS
from routing_service.routers.gain.tfidf import Vocabulary

Half = npt.NDArray[np.float16]

LARGEST = 1e12  # of any figure: its square is still a float32
Finite = Annotated[float, Field(allow_inf_nan=False)]
Size = Annotated[float, Field(ge=0, le=LARGEST)]

__all__ = ["EmbeddingPart", "Figures", "GainModel", "packed", "unpacked"]


@dataclass(frozen=True, slots=True)
class Figures:
    """The numbers of a fitted router that are no tensors."""

    mean: Finite  # gain of a prompt of which nothing is known
    noise: Size  # spread of one label around the expected gain; the kernels are in units of its square
    term_kernel: Size
    feature_kernel: Size
    width: Size
    separation: Size
    scale: Size = 1.0  # calibration: scale * raw + offset
    offset: Finite = 0.0


@dataclass(frozen=True, slots=True)
class EmbeddingPart:
    """The cosine kernel over an encoder's d-dimensional unit vectors, primal."""

    kernel: float
    weight: Floats  # (d,)
    reduction: Floats  # (d, r)


@dataclass(frozen=True, slots=True)
class GainModel:
    """What a fit gives; V terms, m landmarks of which the first k carry the variance."""

    vocabulary: Vocabulary
    standard: Standard
    term_weight: Half  # (V,)
    term_variance: Half  # (V,) what the labels leave of a term's prior variance
    landmarks: Points  # (m, w + 1), of w features
    landmark_weight: Floats  # (m,)
    # (k, r); the variance that the labels took away is |similarities @ reduction + vector @ embedding.reduction|^2
    reduction: Floats
    figures: Figures
    embedding: EmbeddingPart | None = None
    shape: Shape = "gaussian"  # of the radial kernel


def packed(model: GainModel) -> tuple[Tensors, dict[str, Any]]:
    """The tensors and the metadata of the artifact."""
    vocabulary = model.vocabulary
    first, second = np.divmod(vocabulary.pairs, max(len(vocabulary.words), 1))
    tensors: Tensors = {
        "words": np.frombuffer("\n".join(vocabulary.words).encode(), np.uint8),
        "pair_counts": np.bincount(first, minlength=len(vocabulary.words)).astype(np.uint32),  # by first word
        "pair_seconds": second.astype(np.uint32),
        "idf": vocabulary.idf.astype(np.float16),
        "term_weight": model.term_weight,
        "term_variance": model.term_variance,
        "center": model.standard.center,
        "spread": model.standard.spread,
        "landmarks": model.landmarks,
        "landmark_weight": model.landmark_weight,
        "reduction": model.reduction,
    }
    metadata: dict[str, Any] = {"figures": asdict(model.figures), "shape": model.shape}
    if model.embedding is not None:
        tensors |= {"embedding_weight": model.embedding.weight, "embedding_reduction": model.embedding.reduction}
        metadata["embedding_kernel"] = model.embedding.kernel
    return tensors, metadata


def unpacked(saved: Artifact, metadata: dict[str, Any]) -> GainModel:
    """The model of an artifact, whose keys are taken out of `metadata`. ArtifactError for whatever is wrong with it."""
    figures = parsed(Figures, metadata.pop("figures", None), "gain artifact's figures")
    vocabulary = _vocabulary(saved)
    terms = len(vocabulary)
    spread = saved.tensor("spread", np.float32, 2, -1)
    width = spread.shape[1]
    if width not in WIDTHS or not (spread > 0).all():
        raise ArtifactError("the gain artifact's spread is not positive, or not that of features that are known here")
    landmarks = saved.tensor("landmarks", np.float32, -1, width + 1)
    reduction = saved.tensor("reduction", np.float32, -1, -1)
    if len(reduction) > len(landmarks):
        raise ArtifactError("the gain artifact's reduction has more rows than there are landmarks")
    term_variance = saved.tensor("term_variance", np.float16, terms)
    if not (term_variance >= 0).all():
        raise ArtifactError("the gain artifact's term_variance is negative")
    return GainModel(
        vocabulary,
        Standard(saved.tensor("center", np.float32, 2, width), spread, figures.separation),
        saved.tensor("term_weight", np.float16, terms),
        term_variance,
        landmarks,
        saved.tensor("landmark_weight", np.float32, len(landmarks)),
        reduction,
        figures,
        _embedding(saved, metadata.pop("embedding_kernel", None), reduction.shape[1]),
        _shape(metadata.pop("shape", "gaussian")),  # older artifacts name none
    )


def _shape(name: Any) -> Shape:
    if name not in get_args(Shape):
        raise ArtifactError(f"the gain artifact's shape {str(name)[:80]!r} is none of: {', '.join(get_args(Shape))}")
    shape: Shape = name
    return shape


def _is_finite(number: Any) -> bool:
    return isinstance(number, int | float) and bool(np.isfinite(number))


def _embedding(saved: Artifact, kernel: Any, rank: int) -> EmbeddingPart | None:
    if kernel is None:
        return None
    if not _is_finite(kernel) or kernel <= 0:
        raise ArtifactError("the gain artifact's embedding_kernel is not a positive number")
    weight = saved.tensor("embedding_weight", np.float32, -1)
    return EmbeddingPart(kernel, weight, saved.tensor("embedding_reduction", np.float32, len(weight), rank))


def _vocabulary(saved: Artifact) -> Vocabulary:
    try:
        text = saved.tensor("words", np.uint8, -1).tobytes().decode()
    except UnicodeDecodeError:
        raise ArtifactError("the gain artifact's words are not UTF-8") from None
    words = text.split("\n") if text else []
    counts = saved.tensor("pair_counts", np.uint32, len(words)).astype(np.int64)
    second = saved.tensor("pair_seconds", np.uint32, int(counts.sum())).astype(np.int64)
    pairs = np.repeat(np.arange(len(words)), counts) * len(words) + second
    if len(set(words)) != len(words) or (second >= len(words)).any() or (np.diff(pairs) <= 0).any():
        raise ArtifactError("the gain artifact's vocabulary is not in order")
    idf = saved.tensor("idf", np.float16, len(words) + len(pairs))
    if not (idf > 0).all():
        raise ArtifactError("the gain artifact's idf is not positive")
    return Vocabulary(words, pairs, idf)
