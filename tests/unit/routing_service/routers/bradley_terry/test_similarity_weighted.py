"""Similarity-weighted ranking: as exact as a reference that goes row by row, and the same when saved and loaded.

Bad input gives a clear error, or a win rate between 0 and 1 all the same.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import minimize

from routing_service.embedding.registry import Floats
from routing_service.errors import ArtifactError, ScoringError
from routing_service.routers import artifact
from routing_service.routers.base import Vector
from routing_service.routers.bradley_terry import similarity_weighted
from routing_service.routers.bradley_terry.similarity_weighted import SimilarityWeightedRouter, _widened
from routing_service.routers.registry import load_router
from tests.support.factories import make_settings
from tests.support.routers.labelled import ODD
from tests.support.routers.vectors import BrokenEncoder, WordEncoder, by_topic, comparisons, use
from training.data.comparisons import Comparisons
from training.data.labels import DataError
from training.fit.methods import method
from training.fit.similarity_weighted import SimilarityWeightedOptions
from training.fit.similarity_weighted import fit as fit_router
from training.progress import silent

ALGEBRA, COLOUR = "algebra ring field of today", "colour paint shade of today"
PLAIN = SimilarityWeightedOptions(calibration_share=0)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> WordEncoder:
    encoder = WordEncoder()
    use(monkeypatch, encoder)
    return encoder


def fit(data: Comparisons, *, options: SimilarityWeightedOptions = PLAIN, seed: int = 0) -> SimilarityWeightedRouter:
    router = method("sw_ranking").fit(data, seed=seed, options=options, settings=make_settings(), progress=silent)
    assert isinstance(router, SimilarityWeightedRouter)
    return router


def reference(router: SimilarityWeightedRouter, vectors: Floats) -> Vector:
    """Strengths (prompts, tiers) as RouteLLM finds them: one logistic regression a prompt over all battles, doubled."""
    memory, tiers = router.memory, np.array(router.rated.tiers)
    n, actual = len(memory.prompt), []
    rows = np.arange(n)
    design = np.zeros((n, router.rated.tier_count))
    design[rows, tiers[memory.model_a]] = np.log(10)
    design[rows, tiers[memory.model_b]] = -np.log(10)  # of two models in one tier this is what remains
    for vector in vectors.astype(float):
        similarity = (memory.vectors.astype(float) @ vector)[memory.prompt]
        weight = 10 * 10 ** (similarity / similarity.max()) * memory.weight * 2
        actual.append(_logistic(design, memory.outcome.astype(float), weight) * np.log(10))
    return np.array(actual)


def _logistic(design: Vector, outcome: Vector, weight: Vector) -> Vector:
    def loss(c: Vector) -> tuple[float, Vector]:
        x = design @ c
        return float(weight @ (np.logaddexp(0, x) - outcome * x)), design.T @ (weight * (_sigmoid(x) - outcome))

    def hessian(c: Vector) -> Vector:
        p = _sigmoid(design @ c)
        curve: Vector = (design.T * (weight * p * (1 - p))) @ design
        return curve

    start = np.zeros(design.shape[1])
    actual: Vector = minimize(loss, start, jac=True, hess=hessian, method="trust-exact", options={"gtol": 1e-7}).x
    return actual


def _sigmoid(x: Vector) -> Vector:
    value: Vector = 1 / (1 + np.exp(-x))
    return value


def rates(strength: Vector, first: int, second: int) -> npt.NDArray[np.float64]:
    return _sigmoid(strength[:, first] - strength[:, second])


@pytest.mark.parametrize(("models", "tiers"), [(2, 10), (6, 10), (9, 3)])
def test_win_rates_are_those_of_the_full_problem_solved_tightly(encoder: WordEncoder, models: int, tiers: int) -> None:
    data = by_topic(400, models=models, seed=models)
    data = replace(data, outcome=np.where(data.outcome == 0.5, 0.3, data.outcome), weight=np.tile([1.0, 2.5], 200))
    router = fit(data, options=replace(PLAIN, tiers=tiers))
    assert router._regular
    prompts = [ALGEBRA, COLOUR, "algebra and colour", *data.prompts[:20]]
    vectors = encoder.encode(prompts)
    expected = reference(router, vectors)
    strengths = router.tier_strengths(vectors)
    top = router.rated.tier_count - 1
    assert rates(strengths, top, 0) == pytest.approx(rates(expected, top, 0), abs=1e-6)
    assert rates(strengths, top, top // 2) == pytest.approx(rates(expected, top, top // 2), abs=1e-6)


def test_comparisons_inside_a_tier_count_as_they_do_in_routellm(encoder: WordEncoder) -> None:
    data = by_topic(600, models=8, seed=3)
    router = fit(data, options=replace(PLAIN, tiers=2))
    tiers = np.array(router.rated.tiers)
    inside = tiers[router.memory.model_a] == tiers[router.memory.model_b]
    assert inside.mean() > 0.3
    vectors = encoder.encode(data.prompts[:30])
    actual = rates(router.tier_strengths(vectors), 1, 0)
    assert actual == pytest.approx(rates(reference(router, vectors), 1, 0), abs=1e-6)


def test_blocks_and_minibatches_do_not_change_a_win_rate(encoder: WordEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    data = by_topic(300)
    router, vectors = fit(data), encoder.encode(data.prompts[:50])
    whole = router.tier_strengths(vectors)
    monkeypatch.setattr(similarity_weighted, "BLOCK", 7)
    monkeypatch.setattr(similarity_weighted, "SIMILARITIES_BYTES", 4 * 300 * 3)
    router = SimilarityWeightedRouter(router.memory, router.rated, encoder, make_settings())
    assert router.tier_strengths(vectors) == pytest.approx(whole, abs=1e-5)


def test_similar_prompts_decide(encoder: WordEncoder) -> None:
    router = fit(by_topic(1500))
    hard, easy = router.win_rates([ALGEBRA, COLOUR], "m3", "m0")
    assert hard > 0.75 > 0.65 > easy


def test_any_pair_is_routed_and_a_model_that_was_never_compared_by_its_tier(encoder: WordEncoder) -> None:
    router = fit(by_topic(1500))
    rising = [router.win_rates([ALGEBRA], better, "m0")[0] for better in ("m1", "m2", "m3")]
    assert rising == sorted(rising)
    models = {key: {"name": "gpt-9", "base_url": "http://x/v1", "tier": tier} for key, tier in (("new", 3), ("old", 0))}
    router = SimilarityWeightedRouter(router.memory, router.rated, encoder, make_settings(models=models, routing={}))
    assert router.win_rates([ALGEBRA], "new", "old")[0] == router.win_rates([ALGEBRA], "m3", "m0")[0]
    with pytest.raises(ScoringError, match="nobody"):
        router.win_rates([ALGEBRA], "nobody", "m0")


def test_the_same_comparisons_and_seed_give_the_same_artifact(encoder: WordEncoder, tmp_path: Path) -> None:
    for name in ("first", "second"):
        fit(by_topic(700), options=SimilarityWeightedOptions(), seed=5).save(tmp_path / name)
    first, second = (artifact.read(tmp_path / name) for name in ("first", "second"))
    assert (first.digest, first.metadata) == (second.digest, second.metadata)


def test_a_saved_router_scores_the_same(encoder: WordEncoder, tmp_path: Path) -> None:
    router = fit(by_topic(700, pair=("m3", "m0")), options=SimilarityWeightedOptions())
    router.save(tmp_path / "router")
    loaded = load_router(tmp_path / "router", make_settings())
    prompts = [ALGEBRA, COLOUR, *ODD]
    assert loaded.win_rates(prompts, "m2", "m1").tolist() == router.win_rates(prompts, "m2", "m1").tolist()
    assert loaded.explain(ALGEBRA) == router.explain(ALGEBRA)
    assert loaded.score([ALGEBRA], ["weak", "strong"])[0].tolist() == router.score([ALGEBRA], ["m0", "m3"])[0].tolist()
    loaded.save(tmp_path / "again")
    assert artifact.read(tmp_path / "again").metadata == artifact.read(tmp_path / "router").metadata


def test_the_artifact_says_what_it_was_fitted_on(encoder: WordEncoder) -> None:
    router = fit(by_topic(700), options=SimilarityWeightedOptions())
    _, metadata = router.pack()
    assert metadata["data"] | {"fingerprint": ""} == {
        "fingerprint": "",
        "rows": 700,
        "prompts": 700,
        "sources": {"golden": 700},
    }
    assert metadata["encoder"] == {"spec": "words@32", "identity": "words"}
    assert metadata["metrics"]["calibration"]["held_out"] >= 100
    assert metadata["calibration"]["std"] < 0.25
    json.dumps(metadata)


def test_each_prompt_is_embedded_once(encoder: WordEncoder) -> None:
    data = comparisons([("p", "a", "b", 1.0), ("q", "a", "b", 0.0), ("p", "b", "c", 1.0), ("q", "c", "a", 0.5)])
    fit(data, options=SimilarityWeightedOptions())
    assert encoder.encoded == 2


def test_an_explanation_names_the_nearest_comparisons(encoder: WordEncoder) -> None:
    router = fit(by_topic(300))
    explanation = router.explain(ALGEBRA)
    assert (explanation["router"], explanation["strong"], explanation["weak"]) == ("similarity_weighted", "m3", "m0")
    assert explanation["win_rate"] == pytest.approx(float(router.win_rates([ALGEBRA], "m3", "m0")[0]))
    nearest = explanation["comparisons"]
    assert len(nearest) == 10
    assert all("algebra" in one["prompt"] for one in nearest[:3])
    assert nearest[0]["weight"] == pytest.approx(100, rel=1e-4)
    assert [one["similarity"] for one in nearest] == sorted((one["similarity"] for one in nearest), reverse=True)
    assert [tier["models"] for tier in explanation["tiers"]] == [["m0"], ["m1"], ["m2"], ["m3"]]


def test_of_many_comparisons_on_a_prompt_those_of_the_models_in_question_are_shown(encoder: WordEncoder) -> None:
    models = [f"m{i}" for i in range(6)]
    rows = [(prompt, a, b, 0.5) for prompt in ("p", "q") for a in models for b in models if a < b]
    shown = fit(comparisons(rows, pair=("m5", "m3"))).explain("p")["comparisons"]
    assert [one["prompt_number"] for one in shown] == [0, 0, 0, 1, 1, 1]
    assert {shown[0]["model_a"], shown[0]["model_b"]} == {"m3", "m5"}


def test_prompts_are_kept_in_part_or_not_at_all(encoder: WordEncoder, tmp_path: Path) -> None:
    secret = "x" * 199 + "é" + "the secret part"
    data = comparisons([(secret, "a", "b", 1.0), ("q", "a", "b", 0.0), ("\ud800", "a", "b", 0.0)])
    kept, without = fit(data), fit(data, options=replace(PLAIN, keep_prompts=False))
    assert kept.explain(secret)["comparisons"][0]["prompt"] == secret[:200]
    assert without.explain(secret)["comparisons"][0] | {"similarity": 0, "weight": 0} == {
        "prompt_number": 0,
        "prompt": None,
        "model_a": "a",
        "model_b": "b",
        "outcome": 1.0,
        "similarity": 0,
        "weight": 0,
    }
    without.save(tmp_path / "router")
    assert b"xxxx" not in (tmp_path / "router" / artifact.TENSORS).read_bytes()
    assert load_router(tmp_path / "router", make_settings()).explain("q") == without.explain("q")


def test_a_prompt_that_nothing_is_similar_to_gets_the_unweighted_win_rate(encoder: WordEncoder) -> None:
    router = fit(by_topic(300, models=2))
    wins = router.memory.outcome.astype(float)
    first = router.memory.model_a == router.rated.names.index("m1")
    share = np.where(first, wins, 1 - wins).mean()
    assert router.win_rates([""], "m1", "m0")[0] == pytest.approx(share, abs=1e-6)
    lone = fit(comparisons([("p", "a", "b", 1.0), ("p", "b", "a", 1.0), ("p", "a", "b", 1.0)]))
    negative = -encoder.encode(["p"])
    assert rates(lone.tier_strengths(negative), 1, 0) == pytest.approx([2 / 3], abs=1e-6)
    assert rates(lone.tier_strengths(-negative), 1, 0) == pytest.approx([2 / 3], abs=1e-6)


def test_every_finite_half_is_widened_exactly() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    assert (_widened(halves) == halves.astype(np.float32)).all()


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
    actual = router.win_rates(["p", "", "q r s", *ODD], "a", "b")
    assert ((actual > 0) & (actual < 1)).all()
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
