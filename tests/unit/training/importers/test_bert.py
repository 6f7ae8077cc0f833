"""RouteLLM's BERT, imported: the same numbers as its own way of scoring, and nothing executed."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from routing_service.errors import ArtifactError
from routing_service.routers.registry import load_router
from routing_service.settings import RoutingSettings, Settings
from tests.support.routers.tiny_classifier import as_routellm, checkpoint
from tests.support.routers.tiny_encoder import texts
from training.importers.bert import import_bert

PROMPTS = [*texts(20, 2), "", "w1"]


def change(directory: Path, **tensors: Any) -> None:
    file = directory / "model.safetensors"
    kept = load_file(file) | tensors
    save_file({name: tensor for name, tensor in kept.items() if tensor is not None}, file)


@pytest.mark.parametrize("old", [False, True])
def test_an_imported_router_gives_routellms_win_rates(tmp_path: Path, old: bool) -> None:
    model = checkpoint(tmp_path / "theirs")
    if old:
        (tmp_path / "theirs" / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "theirs" / "pytorch_model.bin")
    router = import_bert(tmp_path / "theirs", Settings())
    router.save(tmp_path / "ours")
    loaded = load_router(tmp_path / "ours", Settings(routing=RoutingSettings(device="cpu")))
    expected = [as_routellm(model, prompt) for prompt in PROMPTS]
    assert router.figures.rule == "routellm"
    assert loaded.win_rates(PROMPTS, "strong", "weak") == pytest.approx(expected, abs=0.1)  # in integers
    router.figures = type(router.figures)(64, "routellm", precision="float")
    assert router.win_rates(PROMPTS, "strong", "weak") == pytest.approx(expected, abs=1e-5)


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    checkpoint(tmp_path / "theirs")
    (tmp_path / "theirs" / "model.safetensors").unlink()

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    file = tmp_path / "theirs" / "pytorch_model.bin"
    for content in (pickle.dumps({"x": Trap()}), pickle.dumps(Trap())):
        file.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"tensors|cannot be read"):
            import_bert(tmp_path / "theirs", Settings())
    torch.save({"x": Trap()}, file)
    with pytest.raises(ArtifactError, match=r"tensors|cannot be read"):
        import_bert(tmp_path / "theirs", Settings())
    assert not (tmp_path / "sprung").exists()


def test_a_checkpoint_without_its_head_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    change(tmp_path, **{"classifier.out_proj.weight": None})
    with pytest.raises(ArtifactError, match="out_proj"):
        import_bert(tmp_path, Settings())


def test_a_head_of_other_labels_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path, num_labels=2)
    with pytest.raises(ArtifactError, match="no classifier"):
        import_bert(tmp_path, Settings())


def test_a_checkpoint_without_weights_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match="neither"):
        import_bert(tmp_path, Settings())


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    checkpoint(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtifactError):
        import_bert(tmp_path, Settings())
