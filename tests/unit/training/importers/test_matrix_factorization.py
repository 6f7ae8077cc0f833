"""RouteLLM's published checkpoint, in files of its layout: imported exactly, or refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from routing_service.errors import ArtifactError, ConfigurationError
from routing_service.routers.registry import load_router
from routing_service.settings import Settings
from tests.support.factories import make_settings
from tests.support.routers.vectors import WordEncoder, use
from training.importers.matrix_factorization import ENCODER, MODELS, import_matrix_factorization

DIM, TEXT_DIM = 8, 32
CONFIG = {"dim": DIM, "num_models": 64, "text_dim": TEXT_DIM, "num_classes": 1, "use_proj": True}
PROMPTS = ["algebra ring field", "colour paint", "ü", ""]


def weights() -> dict[str, Any]:
    draw = np.random.default_rng(0)
    shapes = {"P.weight": (64, DIM), "text_proj.0.weight": (DIM, TEXT_DIM), "classifier.0.weight": (1, DIM)}
    return {name: (2 * draw.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}


def written(path: Path, tensors: dict[str, Any] | None = None, config: Any = CONFIG) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    save_file(weights() if tensors is None else tensors, path / "model.safetensors")
    return path


class PublishedModel(torch.nn.Module):
    """RouteLLM 0.2.0's MFModel, the embedding of the prompt given."""

    def __init__(self, state: dict[str, Any], projected: bool = True) -> None:
        super().__init__()
        self.P = torch.nn.Embedding(64, DIM)
        if projected:
            self.text_proj = torch.nn.Sequential(torch.nn.Linear(TEXT_DIM, DIM, bias=False))
        self.classifier = torch.nn.Sequential(torch.nn.Linear(DIM, 1, bias=False))
        self.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})

    @torch.no_grad()
    def win_rate(self, a: int, b: int, vector: torch.Tensor) -> float:
        models = torch.nn.functional.normalize(self.P(torch.tensor([a, b])), p=2, dim=1)
        prompt = self.text_proj(vector) if hasattr(self, "text_proj") else vector
        logits = self.classifier(models * prompt).squeeze()
        return float(torch.sigmoid(logits[0] - logits[1]))


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> WordEncoder:
    encoder = WordEncoder()
    use(monkeypatch, encoder)
    return encoder


def test_win_rates_are_the_checkpoints(encoder: WordEncoder, tmp_path: Path) -> None:
    router = import_matrix_factorization(written(tmp_path / "mf"), make_settings())
    model, vectors = PublishedModel(weights()), torch.from_numpy(encoder.encode(PROMPTS))
    for a, b in ((24, 36), (0, 63), (5, 5)):
        expected = [model.win_rate(a, b, vector) for vector in vectors]
        assert router.win_rates(PROMPTS, MODELS[a], MODELS[b]).tolist() == pytest.approx(expected, abs=1e-6)


def test_a_checkpoint_without_a_projection(encoder: WordEncoder, tmp_path: Path) -> None:
    state = {name: value for name, value in weights().items() if name != "text_proj.0.weight"}
    narrow = WordEncoder(DIM)
    path = written(tmp_path / "mf", state, CONFIG | {"use_proj": False, "text_dim": DIM})
    router = import_matrix_factorization(path, make_settings(), narrow)
    model, vectors = PublishedModel(state, projected=False), torch.from_numpy(narrow.encode(PROMPTS))
    expected = [model.win_rate(24, 36, vector) for vector in vectors]
    assert router.win_rates(PROMPTS, MODELS[24], MODELS[36]).tolist() == pytest.approx(expected, abs=1e-6)


def test_the_artifact_routes_the_pair_that_routellm_routes(encoder: WordEncoder, tmp_path: Path) -> None:
    router = import_matrix_factorization(written(tmp_path / "mf"), make_settings())
    router.save(tmp_path / "router")
    loaded = load_router(tmp_path / "router", make_settings())
    expected = router.win_rates(PROMPTS, "gpt-4-1106-preview", "mixtral-8x7b-instruct-v0.1").tolist()
    assert loaded.win_rates(PROMPTS, "strong", "weak").tolist() == expected
    assert loaded.explain(PROMPTS[0])["strong"] == "gpt-4-1106-preview"


def test_models_are_rated_by_how_far_they_differ_the_strong_one_above(encoder: WordEncoder, tmp_path: Path) -> None:
    rated = import_matrix_factorization(written(tmp_path / "mf"), make_settings()).rated
    assert rated.tier_count == 10
    assert rated.ratings[24] > rated.ratings[36]
    order = np.argsort(rated.ratings)
    assert (np.diff(np.array(rated.tiers)[order]) >= 0).all()


def test_prompts_are_embedded_by_the_endpoint_that_is_configured(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="embedding"):
        import_matrix_factorization(written(tmp_path / "mf"), Settings())
    assert ENCODER.startswith("endpoint:text-embedding-3-small")


@pytest.mark.parametrize(
    "config",
    [
        [],
        {},
        CONFIG | {"dim": "8"},
        CONFIG | {"dim": 0},
        CONFIG | {"dim": 16},
        CONFIG | {"num_models": 63},
        CONFIG | {"num_classes": 3},
        CONFIG | {"text_dim": 1536},
        CONFIG | {"use_proj": False},
        CONFIG | {"use_proj": None},
    ],
)
def test_other_sizes_are_refused(encoder: WordEncoder, tmp_path: Path, config: Any) -> None:
    with pytest.raises(ArtifactError):
        import_matrix_factorization(written(tmp_path / "mf", config=config), make_settings())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("P.weight", np.zeros((64, DIM), np.int64)),
        ("P.weight", np.zeros((63, DIM), np.float32)),
        ("text_proj.0.weight", np.zeros((TEXT_DIM, DIM), np.float32)),
        ("classifier.0.weight", np.full((1, DIM), np.nan, np.float32)),
    ],
)
def test_other_weights_are_refused(encoder: WordEncoder, tmp_path: Path, name: str, value: Any) -> None:
    path = written(tmp_path / "mf", weights() | {name: value})
    with pytest.raises(ArtifactError, match=name):
        import_matrix_factorization(path, make_settings())


def test_missing_and_damaged_files_are_refused(encoder: WordEncoder, tmp_path: Path) -> None:
    path = written(tmp_path / "mf")
    content = (path / "model.safetensors").read_bytes()
    for damaged in (b"", content[:100], content[:-1], b"\x80\x04pickle"):
        (path / "model.safetensors").write_bytes(damaged)
        with pytest.raises(ArtifactError, match="safetensors"):
            import_matrix_factorization(path, make_settings())
    (path / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"model\.safetensors"):
        import_matrix_factorization(path, make_settings())
    (path / "pytorch_model.bin").write_bytes(b"\x80\x04pickle")
    with pytest.raises(ArtifactError, match="pickled"):
        import_matrix_factorization(path, make_settings())
    (path / "config.json").write_text("{")
    with pytest.raises(ArtifactError, match="JSON"):
        import_matrix_factorization(path, make_settings())
    with pytest.raises(ArtifactError, match=r"config\.json"):
        import_matrix_factorization(tmp_path / "nowhere", make_settings())
