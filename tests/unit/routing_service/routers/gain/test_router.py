"""The gain router: fitted from labels, sane for any prompt, the same when saved and loaded; and the one that ships."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routing_service.errors import ArtifactError, ScoringError
from routing_service.routers import artifact
from routing_service.routers.gain.kernel import similarities
from routing_service.routers.gain.router import MINIBATCH, GainRouter, minibatches
from routing_service.routers.gain.text_features import WIDTHS, features, tokens
from routing_service.routers.registry import DEFAULT_ARTIFACT, Routers, load_router, make_router
from tests.support.factories import make_settings
from tests.support.routers.labelled import ODD, labels, sums
from training.data.labels import DataError, Labels, fingerprint
from training.default_router import LICENCES, fit_default
from training.fit.gain import GainOptions, fit_labels


@pytest.fixture(scope="module")
def router() -> GainRouter:
    return fit_labels(sums(400), seed=1)


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
    first, second, third = (fit_labels(data, seed=seed, options=options).gains(prompts) for seed in (1, 1, 2))
    assert first[0].tolist() == second[0].tolist()
    assert first[1].tolist() == second[1].tolist()
    assert first[0].tolist() != third[0].tolist()


@pytest.mark.parametrize("shape", ["laplacian", "gaussian"])
def test_the_estimate_is_that_of_kernel_ridge_solved_directly(shape: str) -> None:
    data, prompts = sums(120), sums(30, seed=6).prompts
    router = fit_labels(data, seed=0, options=GainOptions(shape=shape))
    assert router.model.shape == shape
    model, figures = router.model, router.model.figures

    def kernel(left: list[str], right: list[str]) -> np.ndarray:
        points, rows = [], []
        for texts in (left, right):
            words = tokens(texts)
            points.append(model.standard.points(features(texts, words)))
            sparse = model.vocabulary.rows(words)
            rows.append(np.zeros((sparse.count, sparse.terms)))
            rows[-1][sparse.row, sparse.term] = sparse.value
        radial = similarities(points[0], points[1], figures.width, model.shape)
        product: np.ndarray = figures.feature_kernel * radial + figures.term_kernel * rows[0] @ rows[1].T
        return product

    mean = data.gain.sum() / (len(data) + 1)
    ridge = kernel(data.prompts, data.prompts) + np.eye(len(data))
    wanted = mean + kernel(prompts, data.prompts) @ np.linalg.solve(ridge, data.gain - mean)
    assert router.gains(prompts)[0] == pytest.approx(np.clip(wanted, -1, 1), abs=2e-3)


def test_landmarks_come_close_to_the_exact_solution() -> None:
    data, prompts = sums(400), sums(60, seed=7).prompts
    exact = fit_labels(data, seed=0, options=GainOptions(shape="gaussian")).gains(prompts)
    landmarks = fit_labels(data, seed=0, options=GainOptions(exact_rows=0, landmarks=200))
    assert landmarks.model.shape == "gaussian"
    near = landmarks.gains(prompts)
    assert near[0] == pytest.approx(exact[0], abs=0.02)
    assert near[1] == pytest.approx(exact[1], abs=0.02)


def test_a_label_of_weight_three_counts_as_three_labels() -> None:
    data, prompts = sums(90), sums(40, seed=4).prompts
    thrice = data.take(list(range(90)) * 3)
    weighted = labels(data.prompts, data.gain.tolist(), [3.0] * 90)
    options = GainOptions(min_count=3)  # of three copies: the same vocabulary
    single = fit_labels(data, seed=0, options=GainOptions(min_count=1)).gains(prompts)
    heavy = fit_labels(weighted, seed=0, options=GainOptions(min_count=1)).gains(prompts)
    copies = fit_labels(thrice, seed=0, options=options).gains(prompts)
    for of_single, of_heavy, of_copies in zip(single, heavy, copies, strict=True):
        assert of_heavy == pytest.approx(of_copies, abs=0.015)
        assert np.abs(of_heavy - of_single).max() > 0.03


def test_a_prompt_unlike_all_labels_is_less_certain(router: GainRouter) -> None:
    std = router.gains([sums(400).prompts[5], "Comment s'appelle {x} = 3?\nA. un\nB. deux\n" * 9])[1]
    assert 0 < std[0] < std[1] <= 1


def test_one_label_moves_the_mean_half_its_way() -> None:
    gain, std = fit_labels(labels(["What is a ring?"], [1.0]), seed=0).gains(["anything", "What is a ring?"])
    assert gain == pytest.approx([0.5, 0.5], abs=0.1)
    assert (std > 0).all()


def test_one_sided_labels_give_a_router_that_says_so() -> None:
    prompts = sums(300).prompts
    gain, std = fit_labels(labels(prompts, [1.0] * 300), seed=0).gains([*prompts[:5], "A poem, please"])
    assert gain == pytest.approx(np.ones(6), abs=0.01)
    assert np.isfinite(std).all()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (labels([], []), "no label"),
        (labels(["a"], [1], [0.0]), "no label"),
        (labels(["a"], [np.nan]), "finite"),
        (labels(["a"], [1], [np.inf]), "weights"),
        (labels(["a"], [1], [np.nan]), "weights"),
        (labels(["a"], [1], [-1.0]), "weights"),
        (labels(["a"], [1], [1e12]), "weights"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(data: Labels, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        fit_labels(data, seed=0)


def test_extreme_weights_and_kernels_still_give_gains() -> None:
    data = sums(200)
    for weight in (1e-9, 1e6):
        for options in (GainOptions(), GainOptions(exact_rows=0), GainOptions(feature_kernel=100, term_kernel=100)):
            heavy = labels(data.prompts, data.gain.tolist(), [weight] + [1.0] * 199)
            gain, std = fit_labels(heavy, seed=0, options=options).gains([*data.prompts[:9], *ODD])
            assert (np.abs(gain) <= 1).all()
            assert ((std >= 0) & (std <= 1)).all()


@pytest.mark.parametrize(
    "wrong", [{"landmarks": 0}, {"width": -1}, {"shape": "round"}, {"calibration_share": 0.9}, {"min_count": 0}]
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        GainOptions(**wrong)


def test_calibration_is_applied_only_where_it_lowers_the_error() -> None:
    noise = labels(sums(800).prompts, np.random.default_rng(3).choice([-1.0, 1.0], 800).tolist())
    # A narrow kernel with hardly any ridge learns the noise by heart: its gains are far too wide.
    wild = fit_labels(noise, seed=0, options=GainOptions(feature_kernel=100, width=20)).metadata["metrics"][
        "calibration"
    ]
    assert wild["applied"]
    assert wild["error_after"] < wild["error_before"]
    assert wild["scale"] < 0.5
    calm = fit_labels(noise, seed=0).metadata["metrics"]["calibration"]
    assert not calm["applied"]
    assert (calm["scale"], calm["offset"]) == (1, 0)


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
        ("spread", np.zeros((2, 89), np.float32), "positive"),
        ("spread", np.ones((2, 80), np.float32), "known here"),
        ("reduction", np.zeros((9999, 2), np.float32), "reduction"),
        ("term_variance", None, "term_variance"),
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
    wrong += [good | {name: -1.0} for name in ("noise", "term_kernel", "feature_kernel", "width", "scale")]
    wrong += [good | {"separation": 2**63}, good | {"scale": 1e300}]
    for figures in wrong:
        artifact.write(tmp_path, "gain", saved.tensors, saved.metadata | {"figures": figures})
        with pytest.raises(ArtifactError, match="figures"):
            GainRouter.load(tmp_path)
    artifact.write(tmp_path, "gain", saved.tensors, saved.metadata | {"shape": "round"})
    with pytest.raises(ArtifactError, match="shape"):
        GainRouter.load(tmp_path)
    artifact.write(tmp_path, "random", saved.tensors, saved.metadata)
    with pytest.raises(ArtifactError, match="random"):
        GainRouter.load(tmp_path)


def test_variances_below_zero_are_refused(router: GainRouter, tmp_path: Path) -> None:
    router.save(tmp_path)
    saved = artifact.read(tmp_path)
    tensors = dict(saved.tensors)
    artifact.write(tmp_path, "gain", tensors | {"term_variance": -tensors["term_variance"]}, saved.metadata)
    with pytest.raises(ArtifactError, match="term_variance"):
        GainRouter.load(tmp_path)


def test_a_router_of_the_features_there_were_before_goes_on(router: GainRouter, tmp_path: Path) -> None:
    old = WIDTHS[0]
    router.save(tmp_path)
    saved = artifact.read(tmp_path)
    tensors = dict(saved.tensors)
    landmarks = np.ascontiguousarray(np.delete(tensors["landmarks"], np.s_[old:-1], axis=1))
    cut = {name: np.ascontiguousarray(tensors[name][:, :old]) for name in ("center", "spread")}
    artifact.write(tmp_path, "gain", tensors | cut | {"landmarks": landmarks}, saved.metadata)
    loaded = GainRouter.load(tmp_path)
    gain, std = loaded.gains(sums(20).prompts)
    assert np.isfinite(gain).all()
    assert (std > 0).all()
    assert len(loaded.explain("2 + 2?")["features"]) > 0


@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
def test_tensors_that_make_no_number_give_no_win_rate(router: GainRouter, tmp_path: Path) -> None:
    router.save(tmp_path)
    saved = artifact.read(tmp_path)
    tensors = dict(saved.tensors)
    far = np.full_like(tensors["landmarks"], np.finfo(np.float32).max)
    artifact.write(tmp_path, "gain", tensors | {"landmarks": far}, saved.metadata)
    with pytest.raises(ScoringError, match="no number for prompt 1"):
        GainRouter.load(tmp_path).score(["2 + 2?"], ["weak", "strong"])


def test_the_router_that_ships_is_the_default_and_is_loaded_once() -> None:
    settings = make_settings()
    assert settings.routing.router == "auto"
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
