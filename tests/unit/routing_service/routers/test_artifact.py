"""Router artifacts: what was written is read back, and whatever is wrong with one is an ArtifactError."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routing_service.routers import artifact as artifacts
from routing_service.routers.artifact import METADATA, TENSORS, ArtifactError, Tensors, kind_of, read, write
from routing_service.routers.random import RandomRouter
from routing_service.routers.registry import load_router
from tests.support.factories import make_settings

TENSOR: Tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(0, np.uint8)}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    write(tmp_path / "router", "gain", TENSOR, {"seed": 3})
    return tmp_path / "router"


def change(saved: Path, **keys: Any) -> None:
    metadata = json.loads((saved / METADATA).read_text())
    (saved / METADATA).write_text(json.dumps(metadata | keys))


def test_what_was_written_is_read_back(saved: Path) -> None:
    artifact = read(saved)
    assert (artifact.kind, artifact.metadata) == ("gain", {"seed": 3})
    assert artifact.tensor("a", np.float32, 2, -1).tolist() == TENSOR["a"].tolist()
    assert artifact.tensor("b", np.uint8, 0).shape == (0,)
    assert kind_of(saved) == "gain"


def test_the_same_content_has_the_same_digest(tmp_path: Path) -> None:
    first, second = (write(tmp_path / name, "gain", TENSOR, {}) for name in ("x", "y"))
    assert first == second == read(tmp_path / "x").digest


def test_an_older_artifact_is_replaced_and_nothing_is_left_beside_it(saved: Path) -> None:
    write(saved, "random", {}, {"seed": 4})
    assert read(saved).metadata == {"seed": 4}
    assert [path.name for path in saved.parent.iterdir()] == ["router"]


def test_a_directory_of_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtifactError, match=r"thesis\.txt"):
        write(tmp_path, "gain", TENSOR, {})
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_file_where_the_directory_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "router").write_text("")
    with pytest.raises(ArtifactError, match="not a directory"):
        write(tmp_path / "router", "gain", TENSOR, {})


@pytest.mark.parametrize("name", [TENSORS, METADATA])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        read(saved)


@pytest.mark.parametrize("name", [TENSORS, METADATA])
def test_a_truncated_file_is_refused(saved: Path, name: str) -> None:
    content = (saved / name).read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 2):
        (saved / name).write_bytes(content[:length])
        with pytest.raises(ArtifactError):
            read(saved)


def test_a_flipped_bit_is_noticed(saved: Path) -> None:
    content = bytearray((saved / TENSORS).read_bytes())
    content[-1] ^= 1
    (saved / TENSORS).write_bytes(content)
    with pytest.raises(ArtifactError, match="damaged"):
        read(saved)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"format": 2}, "format 2"),
        ({"format": None}, "format"),
        ({"kind": 7}, "kind"),
        ({"sizes": {"a": [3, 2]}}, "sizes"),
        ({"sha256": None}, "damaged"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(saved: Path, keys: dict[str, Any], reason: str) -> None:
    change(saved, **keys)
    with pytest.raises(ArtifactError, match=reason):
        read(saved)


def test_metadata_that_is_no_object_or_too_large_is_refused(saved: Path) -> None:
    (saved / METADATA).write_text("[]")
    with pytest.raises(ArtifactError, match="kind"):
        read(saved)
    (saved / METADATA).write_bytes(b" " * (1 << 20) + b"{}")
    with pytest.raises(ArtifactError, match="larger"):
        read(saved)


def test_a_tensor_of_another_type_or_shape_or_not_finite_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "r", "gain", TENSOR | {"nan": np.array([np.nan], np.float32)}, {})
    artifact = read(tmp_path / "r")
    for name, dtype, shape in (("a", np.float64, (2, 3)), ("a", np.float32, (3, -1)), ("a", np.float32, (6,))):
        with pytest.raises(ArtifactError, match="'a' is float32"):
            artifact.tensor(name, dtype, *shape)
    with pytest.raises(ArtifactError, match="not finite"):
        artifact.tensor("nan", np.float32, 1)
    with pytest.raises(ArtifactError, match="lacks"):
        artifact.tensor("c", np.float32, 1)


def test_torch_tensors_of_types_that_numpy_lacks_are_kept(tmp_path: Path) -> None:
    import torch

    weight = torch.linspace(-3, 3, 12).to(torch.bfloat16).reshape(4, 3)
    write(tmp_path / "r", "bert", {"w": weight, "transposed": weight.T, "a": TENSOR["a"]}, {})
    artifact = read(tmp_path / "r")
    assert artifact.torch_tensor("w").equal(weight)
    assert artifact.torch_tensor("transposed").equal(weight.T)
    assert artifact.torch_tensor("a").tolist() == TENSOR["a"].tolist()
    with pytest.raises(ArtifactError, match="'w' is BF16, which numpy does not have"):
        artifact.tensor("w", np.float32, 4, 3)
    with pytest.raises(ArtifactError, match="lacks"):
        artifact.torch_tensor("b")


def test_a_torch_tensor_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    import torch

    write(tmp_path / "r", "bert", {"w": torch.tensor([1.0, float("inf")], dtype=torch.bfloat16)}, {})
    with pytest.raises(ArtifactError, match="not finite"):
        read(tmp_path / "r").torch_tensor("w")


def test_tensors_are_read_when_they_are_taken(tmp_path: Path) -> None:
    tensors = {str(number): np.full(1 << 20, number, np.uint8) for number in range(32)}
    write(tmp_path / "r", "bert", tensors, {})
    tracemalloc.start()
    try:
        artifact = read(tmp_path / "r")
        assert artifact.tensor("7", np.uint8, 1 << 20)[0] == 7
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20  # of 32 MiB


def test_an_artifact_that_is_replaced_while_it_is_in_use_is_not_mixed_with_the_new_one(saved: Path) -> None:
    artifact = read(saved)
    write(saved, "gain", {"a": TENSOR["a"] + 1}, {})
    assert artifact.tensor("a", np.float32, 2, 3).tolist() == TENSOR["a"].tolist()
    with pytest.raises(ArtifactError, match="changed"):
        artifact.torch_tensor("a")


def test_tensors_beyond_the_limit_are_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "MAX_TENSOR_BYTES", 100)
    with pytest.raises(ArtifactError, match="larger than 100 bytes"):
        read(saved)


def test_a_type_that_an_artifact_cannot_hold_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="object"):
        write(tmp_path / "r", "gain", {"a": np.array([{}], dtype=object)}, {})
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_kind_of_router_is_refused_with_the_kinds_there_are(saved: Path) -> None:
    change(saved, kind="oracle")
    with pytest.raises(ArtifactError, match=r"oracle.*gain.*random"):
        load_router(saved, make_settings())


def test_a_random_router_is_loaded_by_its_kind(tmp_path: Path) -> None:
    RandomRouter(7).save(tmp_path / "r")
    router = load_router(tmp_path / "r", make_settings())
    assert router.name == "random"
    assert router.win_rates(["a"], "s", "w").tolist() == RandomRouter(7).win_rates(["a"], "s", "w").tolist()
    assert router.explain("a")["win_rate"] == router.win_rates(["a"], "s", "w")[0]


def test_a_random_router_without_its_seed_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "r", "random", {}, {})
    with pytest.raises(ArtifactError, match="seed"):
        load_router(tmp_path / "r", make_settings())
