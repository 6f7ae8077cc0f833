"""Matrix factorisation: learns who is better at what, scores folded pairs exactly, saved and read back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routing_service.embedding.registry import Floats
from routing_service.errors import ArtifactError, ScoringError
from routing_service.routers import artifact
from routing_service.routers.bradley_terry.matrix_factorization import MatrixFactorizationRouter
from routing_service.routers.bradley_terry.rated_models import Place
from routing_service.routers.registry import load_router
from tests.support.factories import STRONG, make_settings
from tests.support.routers.labelled import ODD
from tests.support.routers.vectors import BrokenEncoder, WordEncoder, by_topic, comparisons, use
from training.data.comparisons import Comparisons
from training.data.labels import DataError
from training.fit.matrix_factorization import MatrixFactorizationOptions
from training.fit.methods import method
from training.progress import silent

ALGEBRA, COLOUR = "algebra ring field of today", "colour paint shade of today"
PLAIN = MatrixFactorizationOptions(calibration_share=0, least_steps=0)
SHORT = replace(PLAIN, epochs=1)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> WordEncoder:
    encoder = WordEncoder()
    use(monkeypatch, encoder)
    return encoder


def fit(data: Comparisons, *, options: MatrixFactorizationOptions = SHORT, seed: int = 0) -> MatrixFactorizationRouter:
    router = method("mf").fit(data, seed=seed, options=options, settings=make_settings(), progress=silent)
    assert isinstance(router, MatrixFactorizationRouter)
    return router


def published(router: MatrixFactorizationRouter, vector: Floats, first: str, second: str) -> float:
    """The formula of the paper, model by model."""
    f, names = router.factors, router.rated.names
    a, b = (
        f.classifier.astype(float) @ (f.models[names.index(name)] * (f.projection @ vector.astype(float) + f.bias))
        for name in (first, second)
    )
    return float(1 / (1 + np.exp(b - a)))


def test_it_learns_who_is_better_at_what(encoder: WordEncoder) -> None:
    router = fit(by_topic(1500), options=replace(PLAIN, least_steps=400, learning_rate=3e-3))
    hard, easy = router.win_rates([ALGEBRA, COLOUR], "m3", "m0")
    assert hard > 0.75 > 0.65 > easy > 0.35
    assert router.win_rates([ALGEBRA], "m2", "m0")[0] < hard


def test_a_pair_scores_as_the_published_formula_does(encoder: WordEncoder) -> None:
    router = fit(by_topic(200))
    vectors = encoder.encode([ALGEBRA, COLOUR])
    pairs = [("m3", "m0"), ("m1", "m2"), ("m2", "m2")]
    actual = router.raw_win_rates([ALGEBRA, COLOUR], pairs)
    for row, vector in enumerate(vectors):
        for column, pair in enumerate(pairs):
            assert actual[row, column] == pytest.approx(published(router, vector, *pair), abs=1e-6)


def test_strengths_and_folded_pairs_agree(encoder: WordEncoder) -> None:
    router, vectors = fit(by_topic(200)), encoder.encode([ALGEBRA, COLOUR])
    places = [Place(2, 1), Place(0, 0), Place(1)]
    strength = router.strengths(vectors, places)
    for first in range(3):
        for second in range(3):
            rates = router.vector_win_rates(vectors, [(places[first], places[second])])[:, 0]
            assert rates == pytest.approx(1 / (1 + np.exp(strength[:, second] - strength[:, first])), abs=1e-6)


def test_a_model_that_was_never_compared_is_the_mean_of_its_tier(encoder: WordEncoder) -> None:
    router = fit(by_topic(300, models=6), options=replace(SHORT, tiers=2))
    settings = make_settings(models={"new": STRONG | {"tier": 1}}, routing={})
    router = MatrixFactorizationRouter(router.factors, router.rated, encoder, settings)
    vectors, tier = encoder.encode([ALGEBRA]), router.rated.in_tier(1)
    members = [Place(1, router.rated.names.index(name)) for name in tier]
    mean = router.strengths(vectors, members).mean() - router.strengths(vectors, [Place(0, 0)])[0, 0]
    place_of_first = Place(router.rated.tiers[0], 0)
    expected = 1 / (1 + np.exp(-mean))
    assert len(tier) > 1
    assert router.vector_win_rates(vectors, [(Place(1), place_of_first)])[0, 0] == pytest.approx(expected, abs=1e-6)
    assert router.win_rates([ALGEBRA], "new", router.rated.names[0])[0] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ScoringError, match="nobody"):
        router.win_rates([ALGEBRA], "nobody", "m0")


def test_the_same_comparisons_and_seed_give_the_same_artifact(encoder: WordEncoder, tmp_path: Path) -> None:
    data = by_topic(400)
    for name, seed in (("first", 5), ("second", 5), ("third", 6)):
        fit(data, options=replace(SHORT, calibration_share=0.3), seed=seed).save(tmp_path / name)
    first, second, third = (artifact.read(tmp_path / name) for name in ("first", "second", "third"))
    assert (first.digest, first.metadata) == (second.digest, second.metadata)
    assert first.digest != third.digest


def test_a_saved_router_scores_the_same(encoder: WordEncoder, tmp_path: Path) -> None:
    router = fit(by_topic(700, pair=("m3", "m0")), options=replace(SHORT, calibration_share=0.3))
    router.save(tmp_path / "router")
    loaded = load_router(tmp_path / "router", make_settings())
    prompts = [ALGEBRA, COLOUR, *ODD]
    assert loaded.win_rates(prompts, "m2", "m1").tolist() == router.win_rates(prompts, "m2", "m1").tolist()
    assert loaded.explain(ALGEBRA) == router.explain(ALGEBRA)
    assert loaded.score([ALGEBRA], ["weak", "strong"])[0].tolist() == router.score([ALGEBRA], ["m0", "m3"])[0].tolist()
    assert loaded.score([ALGEBRA], ["weak", "strong"])[1][0].tolist() == [0, np.float32(router.calibration.std)]
    loaded.save(tmp_path / "again")
    assert artifact.read(tmp_path / "again").metadata == artifact.read(tmp_path / "router").metadata


def test_calibration_is_measured_on_prompts_that_the_fit_did_not_see(encoder: WordEncoder) -> None:
    measured = fit(by_topic(900), options=replace(SHORT, calibration_share=0.3)).metadata["metrics"]["calibration"]
    assert 200 < measured["held_out"] < 350
    assert measured["error_after"] <= measured["error_before"] or not measured["applied"]


def test_an_explanation_compares_with_a_typical_prompt(encoder: WordEncoder) -> None:
    router = fit(by_topic(1500), options=replace(PLAIN, least_steps=400, learning_rate=3e-3))
    hard, easy = router.explain(ALGEBRA), router.explain(COLOUR)
    assert (hard["router"], hard["strong"], hard["weak"]) == ("matrix_factorization", "m3", "m0")
    assert hard["win_rate"] > hard["typical_win_rate"] > easy["win_rate"]
    assert {one["model"] for one in hard["models"]} == {"m0", "m1", "m2", "m3"}
    json.dumps(hard)


@pytest.mark.parametrize(
    "rows",
    [
        [("p", "a", "b", 1.0)],
        [(f"p {i}", "a", "b", 1.0) for i in range(50)],
        [("", "a", "b", 1.0), ("", "b", "a", 1.0)],
        [("p", "a", "b", 1.0), ("q", "c", "d", 1.0)],
    ],
)
def test_few_and_one_sided_comparisons_give_rates_between_0_and_1(
    encoder: WordEncoder, rows: list[tuple[str, str, str, float]]
) -> None:
    router = fit(comparisons(rows), options=replace(SHORT, calibration_share=0.2))
    actual = router.win_rates(["p", "", "q r s", *ODD], "a", "b")
    assert ((actual > 0) & (actual < 1)).all()
    json.dumps(router.explain("p"))


def test_weights_count_relative_to_each_other(encoder: WordEncoder) -> None:
    rows = [("p", "a", "b", float(i % 2)) for i in range(64)]
    won = fit(comparisons(rows, weight=[100.0 if i % 2 else 1.0 for i in range(64)]), options=replace(PLAIN, epochs=50))
    lost = fit(
        comparisons(rows, weight=[1.0 if i % 2 else 100.0 for i in range(64)]), options=replace(PLAIN, epochs=50)
    )
    assert won.win_rates(["p"], "a", "b")[0] > 0.5 > lost.win_rates(["p"], "a", "b")[0]


def test_what_is_no_data_is_refused(encoder: WordEncoder) -> None:
    with pytest.raises(DataError, match="two different models"):
        fit(comparisons([("p", "a", "a", 1.0)]))
    with pytest.raises(DataError, match="outcomes"):
        fit(comparisons([("p", "a", "b", np.nan)]))


def test_a_fit_that_runs_away_is_refused(encoder: WordEncoder) -> None:
    data = comparisons([("p", "a", "b", 1.0)], weight=[1e6])
    router = fit(data, options=replace(SHORT, learning_rate=1.0, epochs=100))
    assert np.isfinite(router.win_rates(["p"], "a", "b")).all()


def test_vectors_that_are_no_numbers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, BrokenEncoder())
    router = fit(by_topic(50))
    with pytest.raises(ScoringError, match="prompt 2 of 2"):
        router.win_rates(["fine", "broken"], "m1", "m0")
    with pytest.raises(ScoringError, match="prompt 1"):
        fit(comparisons([("broken", "a", "b", 1.0)]))
    endless = np.full((1, 32), np.inf, np.float32)
    assert np.isnan(router.vector_win_rates(endless, [(Place(1, 1), Place(0, 0))])).all()


def test_another_encoder_is_refused(encoder: WordEncoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fit(by_topic(50)).save(tmp_path / "router")
    use(monkeypatch, WordEncoder(identity="other words"))
    with pytest.raises(ArtifactError, match="other words"):
        load_router(tmp_path / "router", make_settings())
    use(monkeypatch, WordEncoder(dimensions=16))
    with pytest.raises(ScoringError, match="16 numbers"):
        load_router(tmp_path / "router", make_settings()).win_rates(["p"], "m1", "m0")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("models", lambda a: a[:-1]),
        ("models", lambda a: a.astype(np.float64)),
        ("projection", lambda a: np.full_like(a, np.nan)),
        ("projection", lambda a: a[:-1]),
        ("bias", lambda a: a[:-1]),
        ("classifier", lambda a: a[None]),
        ("typical", lambda a: a[:-1]),
    ],
)
def test_damaged_artifacts_are_refused(encoder: WordEncoder, tmp_path: Path, name: str, change: Any) -> None:
    tensors, metadata = fit(by_topic(50)).pack()
    artifact.write(tmp_path / "router", "matrix_factorization", tensors | {name: change(tensors[name])}, metadata)
    with pytest.raises(ArtifactError):
        load_router(tmp_path / "router", make_settings())


@pytest.mark.parametrize("key", ["models", "pair", "encoder", "calibration"])
def test_damaged_metadata_is_refused(encoder: WordEncoder, tmp_path: Path, key: str) -> None:
    tensors, metadata = fit(by_topic(50)).pack()
    artifact.write(tmp_path / "router", "matrix_factorization", tensors, metadata | {key: ["damaged"]})
    with pytest.raises(ArtifactError):
        load_router(tmp_path / "router", make_settings())


@pytest.mark.parametrize(
    "options",
    [
        {"dimensions": 0},
        {"epochs": 0},
        {"minibatch": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"weight_decay": -1.0},
        {"noise": -0.1},
        {"tiers": 1},
        {"least_steps": -1},
        {"calibration_share": 0.6},
    ],
)
def test_options_out_of_bounds_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        MatrixFactorizationOptions(**options)
