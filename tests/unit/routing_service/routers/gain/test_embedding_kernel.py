"""The gain router with an embedding kernel: what it adds, what it keeps of its encoder, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from routing_service.embedding.registry import Encoder
from routing_service.errors import ArtifactError, ScoringError
from routing_service.routers import artifact
from routing_service.routers.gain.kernel import similarities
from routing_service.routers.gain.router import GainRouter
from routing_service.routers.gain.text_features import features, tokens
from routing_service.routers.registry import load_router
from routing_service.settings import Settings
from tests.support.factories import make_settings
from tests.support.routers import vectors
from tests.support.routers.labelled import ODD, sums
from tests.support.routers.vectors import BrokenEncoder, WordEncoder
from training.data.labels import DataError, Labels
from training.fit import gain
from training.fit.gain import GainOptions, fit_labels

KERNEL = GainOptions(embedding_kernel=0.3, calibration_share=0)


def use(monkeypatch: pytest.MonkeyPatch, encoder: Encoder) -> None:
    vectors.use(monkeypatch, encoder)

    def make_encoder(settings: Settings, spec: str | None = None) -> Encoder:
        return encoder

    monkeypatch.setattr(gain, "make_encoder", make_encoder)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> WordEncoder:
    encoder = WordEncoder()
    use(monkeypatch, encoder)
    return encoder


@pytest.fixture
def data() -> Labels:
    return sums(150)


def fitted(data: Labels, options: GainOptions = KERNEL) -> GainRouter:
    return fit_labels(data, seed=0, options=options, settings=make_settings())


def test_without_the_kernel_no_encoder_is_asked_for(encoder: WordEncoder, data: Labels) -> None:
    router = fitted(data, GainOptions())
    router.gains(data.prompts)
    assert router.encoder is None
    assert encoder.encoded == 0


def dense_kernel(router: GainRouter, left: list[str], right: list[str]) -> np.ndarray:
    model, figures = router.model, router.model.figures
    points, rows, units = [], [], []
    for texts in (left, right):
        words = tokens(texts)
        points.append(model.standard.points(features(texts, words)))
        sparse = model.vocabulary.rows(words)
        rows.append(np.zeros((sparse.count, sparse.terms)))
        rows[-1][sparse.row, sparse.term] = sparse.value
        units.append(WordEncoder().encode(texts))
    kernel: np.ndarray = (
        figures.feature_kernel * similarities(points[0], points[1], figures.width, model.shape)
        + figures.term_kernel * rows[0] @ rows[1].T
        + KERNEL.embedding_kernel * units[0] @ units[1].T
    )
    return kernel


def test_the_estimate_is_that_of_kernel_ridge_with_the_cosine(encoder: WordEncoder, data: Labels) -> None:
    router, prompts = fitted(data), sums(30, seed=6).prompts
    mean = data.gain.sum() / (len(data) + 1)
    ridge = dense_kernel(router, data.prompts, data.prompts) + np.eye(len(data))
    wanted = mean + dense_kernel(router, prompts, data.prompts) @ np.linalg.solve(ridge, data.gain - mean)
    gains, std = router.gains(prompts)
    assert gains == pytest.approx(np.clip(wanted, -1, 1), abs=2e-3)
    assert ((std > 0) & (std <= 1)).all()
    assert np.abs(gains - fitted(data, GainOptions(calibration_share=0)).gains(prompts)[0]).max() > 0.01


def test_landmarks_come_close_to_the_exact_solution(encoder: WordEncoder, data: Labels) -> None:
    prompts = sums(40, seed=7).prompts
    near = GainOptions(embedding_kernel=0.3, exact_rows=0, landmarks=150, calibration_share=0)
    for exact, actual in zip(fitted(data).gains(prompts), fitted(data, near).gains(prompts), strict=True):
        assert actual == pytest.approx(exact, abs=0.02)


def test_a_prompt_unlike_all_labels_is_less_certain(encoder: WordEncoder, data: Labels) -> None:
    std = fitted(data).gains([data.prompts[5], "Qui es-tu? " * 9])[1]
    assert 0 < std[0] < std[1] <= 1


def test_it_is_saved_with_its_encoder_and_the_same_when_loaded(
    encoder: WordEncoder, data: Labels, tmp_path: Path
) -> None:
    router = fitted(data)
    router.save(tmp_path)
    loaded = load_router(tmp_path, make_settings())
    prompts = data.prompts[:20] + ODD
    for before, after in zip(router.score(prompts, ["w", "s"]), loaded.score(prompts, ["w", "s"]), strict=True):
        assert before.tolist() == after.tolist()
    assert artifact.read(tmp_path).metadata["encoder"] == {"spec": "words@32", "identity": "words"}
    why = loaded.explain(data.prompts[0])
    json.dumps(why)
    assert why["embedding"] != 0
    assert "embedding" not in fitted(data, GainOptions(calibration_share=0)).explain(data.prompts[0])


def test_calibration_is_measured_with_the_embedding(encoder: WordEncoder) -> None:
    router = fitted(sums(600), GainOptions(embedding_kernel=0.3))
    assert router.metadata["metrics"]["calibration"]["held_out"] > 100
    assert router.metadata["options"]["embedding_kernel"] == 0.3


def test_an_artifact_of_another_encoder_is_refused(
    encoder: WordEncoder, data: Labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted(data).save(tmp_path)
    use(monkeypatch, WordEncoder(identity="other words"))
    with pytest.raises(ArtifactError, match="other words"):
        load_router(tmp_path, make_settings())
    use(monkeypatch, WordEncoder(dimensions=16))
    with pytest.raises(ArtifactError, match="length"):
        load_router(tmp_path, make_settings())


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"embedding_kernel": "big"}, "embedding_kernel"),
        ({"embedding_kernel": -1.0}, "embedding_kernel"),
        ({"encoder": None}, "encoder"),
        ({"encoder": {"spec": 3}}, "encoder"),
    ],
)
def test_metadata_that_fit_no_embedding_are_refused(
    encoder: WordEncoder, data: Labels, tmp_path: Path, changed: dict[str, object], reason: str
) -> None:
    fitted(data).save(tmp_path)
    saved = artifact.read(tmp_path)
    tensors = {name: np.array(tensor) for name, tensor in saved.tensors.items()}
    artifact.write(tmp_path, "gain", tensors, saved.metadata | changed)
    with pytest.raises(ArtifactError, match=reason):
        load_router(tmp_path, make_settings())
    for name in ("embedding_weight", "embedding_reduction"):
        artifact.write(tmp_path, "gain", {key: tensors[key] for key in tensors if key != name}, saved.metadata)
        with pytest.raises(ArtifactError, match=name):
            load_router(tmp_path, make_settings())


def test_vectors_that_are_no_numbers_are_refused(monkeypatch: pytest.MonkeyPatch, data: Labels) -> None:
    use(monkeypatch, BrokenEncoder())
    with pytest.raises(ScoringError, match="encoder gives vectors"):
        fitted(data).gains(["whole", "broken"])
    broken = Labels([*data.prompts[:-1], "broken"], data.gain, data.weight, data.source)
    with pytest.raises(ScoringError, match="encoder gives vectors"):
        fitted(broken)


def test_a_kernel_out_of_range_is_refused() -> None:
    with pytest.raises(DataError, match="embedding_kernel"):
        GainOptions(embedding_kernel=-0.1)
