"""The gain router saved and loaded, and the one that ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routing_service.errors import ArtifactError, ScoringError
from routing_service.routers import artifact
from routing_service.routers.gain.router import GainRouter
from routing_service.routers.gain.text_features import WIDTHS
from routing_service.routers.registry import DEFAULT_ARTIFACT, Routers, load_router, make_router
from tests.factories import make_settings
from tests.unit.labelled import ODD, sums
from training.data.labels import fingerprint
from training.fit.default_router import LICENCES, fit_default
from training.fit.gain import GainOptions, fit_labels


@pytest.fixture(scope="module")
def router() -> GainRouter:
    return fit_labels(sums(400), seed=1)


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
