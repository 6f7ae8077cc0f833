"""Similarity-weighted ranking on bad input: a clear error, or a win rate between 0 and 1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routing_service.errors import ArtifactError, ScoringError
from routing_service.routers import artifact
from routing_service.routers.bradley_terry.similarity_weighted import SimilarityWeightedRouter
from routing_service.routers.registry import load_router
from tests.factories import make_settings
from tests.unit.labelled import ODD
from tests.unit.vectors import BrokenEncoder, WordEncoder, by_topic, comparisons, use
from training.data.comparisons import Comparisons
from training.data.labels import DataError
from training.fit.similarity_weighted import SimilarityWeightedOptions
from training.fit.similarity_weighted import fit as fit_router


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> WordEncoder:
    encoder = WordEncoder()
    use(monkeypatch, encoder)
    return encoder


def fit_with_share(data: Comparisons, share: float = 0) -> SimilarityWeightedRouter:
    options = SimilarityWeightedOptions(calibration_share=share)
    return fit_router(data, seed=0, options=options, settings=make_settings())


@pytest.mark.parametrize(
    "rows",
    [
        [("p", "a", "b", 1.0)],
        [("p", "a", "b", 0.0)],
        [(f"p {i}", "a", "b", 1.0) for i in range(50)],
        [("", "a", "b", 1.0), ("", "b", "a", 1.0)],
        [("p", "a", "b", 1.0), ("q", "c", "d", 1.0)],
        [("p", "a", "b", 0.5), ("q", "b", "c", 1.0)],
    ],
)
def test_few_and_one_sided_comparisons_give_rates_between_0_and_1(
    encoder: WordEncoder, rows: list[tuple[str, str, str, float]]
) -> None:
    router = fit_with_share(comparisons(rows), share=0.2)
    found = router.win_rates(["p", "", "q r s", *ODD], "a", "b")
    assert ((found > 0) & (found < 1)).all()
    json.dumps(router.explain("p"))


def test_one_comparison_is_believed_in_part_and_many_nearly_whole(encoder: WordEncoder) -> None:
    one, many = (fit_with_share(comparisons([(f"p {i}", "a", "b", 1.0) for i in range(n)])) for n in (1, 200))
    assert 0.6 < one.win_rates(["p 0"], "a", "b")[0] < 0.9
    assert many.win_rates(["p 0"], "a", "b")[0] > 0.98


def test_hardly_similar_prompts_still_give_a_number(encoder: WordEncoder) -> None:
    router = fit_with_share(by_topic(300))
    draw = np.random.default_rng(0).normal(size=(50, 32)).astype(np.float32)
    aside = draw - 0.999 * (draw @ np.linalg.pinv(draw)) @ draw
    assert np.isfinite(router.tier_strengths((aside * 1e-6).astype(np.float32))).all()


def test_models_compared_with_themselves_say_nothing(encoder: WordEncoder) -> None:
    rows = [("p", "a", "b", 1.0), ("q", "b", "a", 1.0), ("q", "a", "a", 1.0), ("q", "c", "c", 1.0)]
    router = fit_with_share(comparisons(rows))
    assert router.rated.names == ("a", "b")
    assert router.metadata["data"]["rows"] == 2
    with pytest.raises(DataError, match="two different models"):
        fit_with_share(comparisons([("p", "a", "a", 1.0)]))


@pytest.mark.parametrize(
    ("outcome", "weight"), [(1.5, 1.0), (np.nan, 1.0), (1.0, 0.0), (1.0, np.inf), (1.0, np.nan), (1.0, 1e-300)]
)
def test_outcomes_and_weights_out_of_bounds_are_refused(encoder: WordEncoder, outcome: float, weight: float) -> None:
    with pytest.raises(DataError):
        fit_with_share(comparisons([("p", "a", "b", outcome)], weight=[weight]))


def test_vectors_that_are_no_numbers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, BrokenEncoder())
    router = fit_with_share(by_topic(50))
    with pytest.raises(ScoringError, match="prompt 2"):
        router.win_rates(["fine", "broken"], "m1", "m0")
    with pytest.raises(ScoringError, match="prompt 1"):
        fit_with_share(comparisons([("broken", "a", "b", 1.0)]))


def test_another_encoder_is_refused(encoder: WordEncoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    router = fit_with_share(by_topic(50))
    router.save(tmp_path / "router")
    use(monkeypatch, WordEncoder(identity="other words"))
    with pytest.raises(ArtifactError, match="other words"):
        load_router(tmp_path / "router", make_settings())
    use(monkeypatch, WordEncoder(dimensions=16))
    with pytest.raises(ScoringError, match="16 numbers"):
        load_router(tmp_path / "router", make_settings()).win_rates(["p"], "m1", "m0")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("vectors", lambda a: a.astype(np.float32)),
        ("vectors", lambda a: np.full_like(a, np.nan)),
        ("vectors", lambda a: a[:-1]),
        ("prompt", lambda a: a[::-1]),
        ("prompt", lambda a: a - 1),
        ("model_a", lambda a: a + 100),
        ("model_b", lambda a: a - 100),
        ("model_b", lambda a: a[:-1]),
        ("outcome", lambda a: a + 2),
        ("weight", lambda a: a * 0),
        ("excerpt", lambda a: a[:-1]),
        ("excerpt_end", lambda a: a[::-1]),
    ],
)
def test_damaged_artifacts_are_refused(encoder: WordEncoder, tmp_path: Path, name: str, change: Any) -> None:
    tensors, metadata = fit_with_share(by_topic(50)).pack()
    artifact.write(tmp_path / "router", "similarity_weighted", tensors | {name: change(tensors[name])}, metadata)
    with pytest.raises(ArtifactError):
        load_router(tmp_path / "router", make_settings())


@pytest.mark.parametrize("key", ["models", "pair", "encoder", "calibration"])
def test_damaged_metadata_is_refused(encoder: WordEncoder, tmp_path: Path, key: str) -> None:
    tensors, metadata = fit_with_share(by_topic(50)).pack()
    artifact.write(tmp_path / "router", "similarity_weighted", tensors, metadata | {key: ["damaged"]})
    with pytest.raises(ArtifactError):
        load_router(tmp_path / "router", make_settings())


@pytest.mark.parametrize("options", [{"tiers": 1}, {"tiers": 101}, {"calibration_share": 0.6}])
def test_options_out_of_bounds_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        SimilarityWeightedOptions(**options)
