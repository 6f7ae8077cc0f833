"""The gain router: fitted from labels, the same after saving, sane for any prompt; and the one that ships."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routing_service.errors import ArtifactError
from routing_service.routers import DEFAULT_ARTIFACT, Routers, artifact, load_router, make_router
from routing_service.routers.gain import MINIBATCH, GainRouter, minibatches
from routing_service.routers.rbf import similarities
from routing_service.routers.text_features import features, tokens
from tests.factories import make_settings
from training.data import DataError, Labels, fingerprint
from training.default import LICENCES, fit_default
from training.gain import GainOptions, fit

ODD = ["", "ü", "一个正方形的面积是多少？", "ما هو حاصل ضرب ٦ في ٧؟", "\ud800", "9" * 5000, "why " * 25_000, "\nA. "]


def labels(prompts: list[str], gain: list[float], weight: list[float] | None = None) -> Labels:
    weights = np.array(weight or [1.0] * len(prompts), float)
    return Labels(prompts, np.array(gain, float), weights, ["golden"] * len(prompts))


def sums(n: int, seed: int = 0) -> Labels:
    """Questions on rings are hard for the weak model, questions on colours for neither."""
    draw = np.random.default_rng(seed)
    hard = draw.random(n) < 0.5
    topics = [("ring", "field", "ideal"), ("colour", "shade", "paint")]
    words = [draw.choice(topics[0 if h else 1], 4) for h in hard]
    prompts = [f"Tell me {number} things of {' '.join(w)}" for number, w in enumerate(words)]
    return labels(prompts, np.where(hard, draw.random(n) < 0.8, draw.random(n) < 0.1).astype(float).tolist())


@pytest.fixture(scope="module")
def router() -> GainRouter:
    return fit(sums(400), seed=1)


def test_it_learns_which_prompts_need_the_strong_model(router: GainRouter) -> None:
    hard, easy = router.gains(["Tell me 7 things of ring field ring", "Tell me 7 things of paint colour shade"])[0]
    assert hard > 0.5 > easy
    assert hard - easy > 0.15


def test_qualities_are_relative_to_the_cheapest_and_the_same_for_every_dearer_model(router: GainRouter) -> None:
    prompts = sums(50, seed=2).prompts
    quality, std = router.score(prompts, ["weak", "middle", "strong"])
    gain, spread = router.gains(prompts)
    assert quality.dtype == std.dtype == np.float32
    assert (quality[:, 0] == 0.5).all()
    assert (std[:, 0] == 0).all()
    assert quality[:, 1].tolist() == quality[:, 2].tolist() == router.win_rates(prompts, "strong", "weak").tolist()
    assert quality[:, 1] == pytest.approx(0.5 + gain / 2)
    assert std[:, 2] == pytest.approx(spread / 2)


def test_nothing_to_score_gives_empty_arrays(router: GainRouter) -> None:
    assert router.score([], ["weak", "strong"])[0].shape == (0, 2)
    assert router.score(["a"], ["only"])[0].tolist() == [[0.5]]


def test_any_text_gets_a_win_rate(router: GainRouter) -> None:
    for one in (router, GainRouter.load(DEFAULT_ARTIFACT)):
        quality, std = one.score(ODD, ["weak", "strong"])
        assert ((quality >= 0) & (quality <= 1)).all()
        assert ((std >= 0) & (std <= 1)).all()
        json.dumps(one.explain(ODD[2]))


def test_a_prompts_estimate_does_not_depend_on_its_company(router: GainRouter) -> None:
    prompts = sums(300, seed=3).prompts + ODD
    together, alone = router.gains(prompts)[0], [router.gains([prompt])[0][0] for prompt in prompts]
    assert together == pytest.approx(alone, abs=1e-5)


def test_the_same_seed_gives_the_same_router() -> None:
    data, prompts = sums(300), sums(40, seed=5).prompts
    options = GainOptions(exact_rows=0, landmarks=32)
    first, second, third = (fit(data, seed=seed, options=options).gains(prompts) for seed in (1, 1, 2))
    assert first[0].tolist() == second[0].tolist()
    assert first[1].tolist() == second[1].tolist()
    assert first[0].tolist() != third[0].tolist()


def test_the_estimate_is_that_of_kernel_ridge_solved_directly() -> None:
    data, prompts = sums(120), sums(30, seed=6).prompts
    router = fit(data, seed=0)
    model, figures = router.model, router.model.figures

    def kernel(left: list[str], right: list[str]) -> np.ndarray:
        points, rows = [], []
        for texts in (left, right):
            words = tokens(texts)
            points.append(model.standard.points(features(texts, words)))
            sparse = model.vocabulary.rows(words)
            rows.append(np.zeros((sparse.count, sparse.terms)))
            rows[-1][sparse.row, sparse.term] = sparse.value
        radial = similarities(points[0], points[1], figures.width)
        product: np.ndarray = figures.feature_kernel * radial + figures.term_kernel * rows[0] @ rows[1].T
        return product

    mean = data.gain.sum() / (len(data) + 1)
    ridge = kernel(data.prompts, data.prompts) + np.eye(len(data))
    wanted = mean + kernel(prompts, data.prompts) @ np.linalg.solve(ridge, data.gain - mean)
    assert router.gains(prompts)[0] == pytest.approx(np.clip(wanted, -1, 1), abs=2e-3)


def test_landmarks_come_close_to_the_exact_solution() -> None:
    data, prompts = sums(400), sums(60, seed=7).prompts
    exact = fit(data, seed=0).gains(prompts)
    near = fit(data, seed=0, options=GainOptions(exact_rows=0, landmarks=200)).gains(prompts)
    assert near[0] == pytest.approx(exact[0], abs=0.02)
    assert near[1] == pytest.approx(exact[1], abs=0.02)


def test_a_label_of_weight_three_counts_as_three_labels() -> None:
    data, prompts = sums(90), sums(40, seed=4).prompts
    thrice = data.take(list(range(90)) * 3)
    weighted = labels(data.prompts, data.gain.tolist(), [3.0] * 90)
    options = GainOptions(min_count=3)  # of three copies: the same vocabulary
    single = fit(data, seed=0, options=GainOptions(min_count=1)).gains(prompts)
    heavy = fit(weighted, seed=0, options=GainOptions(min_count=1)).gains(prompts)
    copies = fit(thrice, seed=0, options=options).gains(prompts)
    for of_single, of_heavy, of_copies in zip(single, heavy, copies, strict=True):
        assert of_heavy == pytest.approx(of_copies, abs=0.015)
        assert np.abs(of_heavy - of_single).max() > 0.03


def test_a_prompt_unlike_all_labels_is_less_certain(router: GainRouter) -> None:
    std = router.gains([sums(400).prompts[5], "Comment s'appelle {x} = 3?\nA. un\nB. deux\n" * 9])[1]
    assert 0 < std[0] < std[1] <= 1


def test_one_label_moves_the_mean_half_its_way() -> None:
    gain, std = fit(labels(["What is a ring?"], [1.0]), seed=0).gains(["anything", "What is a ring?"])
    assert gain == pytest.approx([0.5, 0.5], abs=0.1)
    assert (std > 0).all()


def test_one_sided_labels_give_a_router_that_says_so() -> None:
    prompts = sums(300).prompts
    gain, std = fit(labels(prompts, [1.0] * 300), seed=0).gains([*prompts[:5], "A poem, please"])
    assert gain == pytest.approx(np.ones(6), abs=0.01)
    assert np.isfinite(std).all()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (labels([], []), "no label"),
        (labels(["a"], [1], [0.0]), "no label"),
        (labels(["a"], [np.nan]), "finite"),
        (labels(["a"], [1], [np.inf]), "finite"),
        (labels(["a"], [1], [-1.0]), "negative"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(data: Labels, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        fit(data, seed=0)


@pytest.mark.parametrize("wrong", [{"landmarks": 0}, {"width": 0}, {"calibration_share": 0.9}, {"min_count": 0}])
def test_options_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(DataError):
        GainOptions(**wrong)  # type: ignore[arg-type]


def test_calibration_is_applied_only_where_it_lowers_the_error() -> None:
    noise = labels(sums(800).prompts, np.random.default_rng(3).choice([-1.0, 1.0], 800).tolist())
    # A narrow kernel with hardly any ridge learns the noise by heart: its gains are far too wide.
    wild = fit(noise, seed=0, options=GainOptions(feature_kernel=100, width=20)).metadata["metrics"]["calibration"]
    assert wild["applied"]
    assert wild["error_after"] < wild["error_before"]
    assert wild["scale"] < 0.5
    calm = fit(noise, seed=0).metadata["metrics"]["calibration"]
    assert not calm["applied"]
    assert (calm["scale"], calm["offset"]) == (1, 0)


def test_a_saved_router_is_the_same_when_loaded(router: GainRouter, tmp_path: Path) -> None:
    router.save(tmp_path / "r")
    loaded = load_router(tmp_path / "r", make_settings())
    assert isinstance(loaded, GainRouter)
    prompts = sums(100, seed=8).prompts + ODD
    for before, after in zip(router.gains(prompts), loaded.gains(prompts), strict=True):
        assert before.tolist() == after.tolist()
    assert loaded.metadata == router.metadata
    assert loaded.metadata["data"]["fingerprint"] == fingerprint(sums(400))
    loaded.save(tmp_path / "again")
    assert artifact.read(tmp_path / "again").digest == artifact.read(tmp_path / "r").digest


@pytest.mark.parametrize(
    ("name", "tensor", "reason"),
    [
        ("words", np.frombuffer(b"\xff", np.uint8), "UTF-8"),
        ("pair_seconds", None, "pair_seconds"),
        ("idf", np.zeros(3, np.float16), "idf"),
        ("landmark_weight", np.array([np.nan], np.float32), "landmark_weight"),
        ("spread", np.zeros((2, 73), np.float32), "positive"),
        ("reduction", np.zeros((9999, 2), np.float32), "reduction"),
    ],
)
def test_tensors_that_are_no_gain_router_are_refused(
    router: GainRouter, tmp_path: Path, name: str, tensor: np.ndarray | None, reason: str
) -> None:
    router.save(tmp_path)
    saved = artifact.read(tmp_path)
    tensors = {key: value for key, value in saved.tensors.items() if key != name}
    artifact.write(tmp_path, "gain", tensors if tensor is None else tensors | {name: tensor}, saved.metadata)
    with pytest.raises(ArtifactError, match=reason):
        GainRouter.load(tmp_path)


def test_figures_that_are_missing_or_no_numbers_are_refused(router: GainRouter, tmp_path: Path) -> None:
    router.save(tmp_path)
    saved = artifact.read(tmp_path)
    good = saved.metadata["figures"]
    wrong: list[Any] = [None, {}, good | {"mean": "high"}, good | {"mean": None}]
    for figures in wrong:
        artifact.write(tmp_path, "gain", saved.tensors, saved.metadata | {"figures": figures})
        with pytest.raises(ArtifactError, match="figures"):
            GainRouter.load(tmp_path)
    artifact.write(tmp_path, "random", saved.tensors, saved.metadata)
    with pytest.raises(ArtifactError, match="random"):
        GainRouter.load(tmp_path)


def test_an_explanation_names_the_terms_and_features_that_count(router: GainRouter) -> None:
    why = router.explain("Tell me 7 things of ring field ring")
    assert why["gain"] == pytest.approx(2 * why["win_rate"] - 1)
    contributions = {term["term"]: term["contribution"] for term in why["terms"]}
    assert contributions["ring"] > 0
    assert why["features"]
    assert router.explain("")["terms"] == []


def test_minibatches_are_bounded_in_prompts_and_characters() -> None:
    assert list(minibatches(["a"] * (MINIBATCH + 1))) == [(0, MINIBATCH), (MINIBATCH, MINIBATCH + 1)]
    long = "a" * 3_000_000
    assert list(minibatches([long, long, "a", long + long])) == [(0, 1), (1, 3), (3, 4)]
    assert list(minibatches([])) == []


def test_the_router_that_ships_is_the_default_and_is_loaded_once() -> None:
    settings = make_settings()
    assert settings.routing.router == "gain"
    routers = Routers(settings)
    assert routers.get("gain") is routers.get("gain")


def test_the_router_that_ships_is_small_and_says_what_it_was_fitted_on() -> None:
    assert sum(file.stat().st_size for file in DEFAULT_ARTIFACT.iterdir()) < 1_000_000
    metadata = artifact.read(DEFAULT_ARTIFACT).metadata
    assert set(metadata["data"]["tables"]) == set(LICENCES) == set(metadata["metrics"]["held_out"])
    for figures in metadata["metrics"]["held_out"].values():
        assert figures["apgr_ten_bins"] > figures["random_interval"][1]


def test_the_router_that_ships_prefers_the_strong_model_for_the_harder_question() -> None:
    sheep = "Tom has 3 sheep and buys 2 more. How many sheep has he?"
    work = (
        "A train goes 60 miles an hour for 2.5 hours, then 20% slower for twice as long, and stops every 40 minutes "
        "for 5 minutes. Fuel costs $3 a mile for the first 100 miles and half of it after. What is the total cost?"
    )
    easy, hard = make_router("gain", make_settings()).win_rates([sheep, work], "strong", "weak")
    assert easy < hard


def test_the_default_is_rebuilt_from_its_tables_with_figures_and_licences() -> None:
    tables = {"mmlu": sums(300), "gsm8k": sums(200, seed=9)}
    fitted = fit_default(tables, options=GainOptions(calibration_share=0))
    assert fitted.metadata["data"]["rows"] == 500
    assert fitted.metadata["data"]["tables"]["gsm8k"] == {"rows": 200, "licence": LICENCES["gsm8k"]}
    assert fitted.metadata["metrics"]["held_out"]["mmlu"]["apgr"] > 0.5
