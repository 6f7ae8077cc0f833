"""Fitting the similarity-weighted router: comparisons are remembered with their prompts' vectors, models get tiers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from routing_service.embedding.registry import make_encoder
from routing_service.routers.bradley_terry.rated_models import RatedModels
from routing_service.routers.bradley_terry.similarity_weighted import Memory, SimilarityWeightedRouter, excerpts_of
from routing_service.settings import Settings
from training.data.comparisons import Comparisons
from training.data.labels import DataError
from training.fit.rated import Half, calibrate, embed, recorded, usable
from training.fit.tiers import TIERS, rate
from training.progress import Progress, silent

ANY_PAIR = True  # its routers compare any two models of the data


@dataclass(frozen=True, slots=True)
class SimilarityWeightedOptions:
    tiers: int = TIERS
    keep_prompts: bool = True  # the first 200 characters of every prompt, for `explain`; the artifact then holds them
    calibration_share: float = 0.2  # of the prompts, held out to calibrate on; 0 for none

    def __post_init__(self) -> None:
        if not 2 <= self.tiers <= 100:
            raise DataError("tiers must be 2 to 100")
        if not 0 <= self.calibration_share <= 0.5:
            raise DataError("calibration_share must be 0 to 0.5")


def fit(
    comparisons: Comparisons,
    *,
    seed: int,
    options: SimilarityWeightedOptions,
    settings: Settings,
    progress: Progress = silent,
) -> SimilarityWeightedRouter:
    """Fit a router for any pair of the models. Nothing is drawn but the calibration's split.

    DataError for no comparison of two different models.
    """
    data = usable(comparisons)
    encoder = make_encoder(settings)
    vectors = embed(data.prompts, encoder, progress)

    def fitted(kept: Comparisons, of_kept: Half) -> SimilarityWeightedRouter:
        rated = rate(kept, options.tiers)
        prompts = kept.prompts if options.keep_prompts else None
        return SimilarityWeightedRouter(remember(kept, of_kept, rated, prompts), rated, encoder, settings)

    share = options.calibration_share
    with progress("calibrating", 1) as advance:
        calibration, measured = calibrate(data, vectors, fitted, share=share, seed=seed)
        advance(1)
    router = fitted(data, vectors)
    router.calibration = calibration
    router.metadata = recorded(data, seed=seed, options=options, calibration=measured)
    return router


def remember(comparisons: Comparisons, vectors: Half, rated: RatedModels, prompts: Sequence[str] | None) -> Memory:
    """The comparisons in their prompts' order, models numbered as `rated` has them; `prompts` None: no excerpts."""
    number = np.array([rated.names.index(name) for name in comparisons.models], np.int16)
    order = np.argsort(comparisons.prompt, kind="stable")
    memory = Memory(
        vectors,
        comparisons.prompt[order].astype(np.int32),
        number[comparisons.model_a[order]],
        number[comparisons.model_b[order]],
        comparisons.outcome[order].astype(np.float32),
        comparisons.weight[order].astype(np.float32),
        None,
        None,
    )
    if prompts is None:
        return memory
    excerpt, end = excerpts_of(prompts)
    return replace(memory, excerpt=excerpt, excerpt_end=end)
