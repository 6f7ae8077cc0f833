"""What `routebatch doctor` says of a configuration, its routers, the device and the encoder."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli.main import main
from deploy.layout import StateDir, locked
from routing_service import device
from routing_service.routers.registry import DEFAULT_ARTIFACT
from tests.support.routers.tiny_encoder import write_encoder

Checks = dict[str, dict[str, Any]]
Doctor = Callable[[str], tuple[int, Checks]]


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return StateDir.make(tmp_path / "state")


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: StateDir) -> Doctor:
    """Runs it on a configuration; empty: on none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(device, "DRIVER", "no-such-driver.so")

    def run(configuration: str) -> tuple[int, Checks]:
        if configuration:
            Path("routebatch.toml").write_text(configuration)
        result = CliRunner().invoke(main, ["doctor", "--state-dir", str(state.root), "--json"])
        return result.exit_code, {check["name"]: check for check in json.loads(result.output)}

    return run


def test_it_says_what_is_used(doctor: Doctor) -> None:
    code, checks = doctor("[routing]\nrouter = 'gain'\n")
    assert code == 0
    assert checks["device"]["detail"].startswith("cpu, ")
    assert checks["router"]["detail"].startswith("gain, loaded from ")
    assert checks["encoder"]["detail"].startswith("minilm@int8,256, cached in ")
    assert checks["torch"]["ok"]


def test_torch_need_not_be_imported_for_it(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails
    code, checks = doctor("[routing]\nrouter = 'gain'\n")
    assert code == 0
    assert checks["device"]["ok"]


def test_cuda_that_is_demanded_and_not_there_is_broken(doctor: Doctor) -> None:
    code, checks = doctor("[routing]\ndevice = 'cuda'\n")
    assert code == 1
    assert checks["device"]["ok"] is False
    assert "CUDA" in checks["device"]["detail"]


def test_every_configured_artifact_is_loaded(doctor: Doctor, tmp_path: Path) -> None:
    shutil.copytree(DEFAULT_ARTIFACT, tmp_path / "mine")
    shutil.copytree(DEFAULT_ARTIFACT, tmp_path / "damaged")
    with (tmp_path / "damaged" / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    artifacts = "".join(f"{name} = '{tmp_path / name}'\n" for name in ("mine", "damaged", "gone"))
    code, checks = doctor(f"[routing]\nrouter = 'mine'\n[routing.artifacts]\n{artifacts}")
    assert code == 1
    assert checks["router"]["detail"] == f"mine, from {tmp_path / 'mine'}"
    assert checks["router mine"]["detail"] == f"gain, loaded from {tmp_path / 'mine'}"
    assert checks["router damaged"]["ok"] is False
    assert checks["router gone"]["ok"] is False


@pytest.mark.parametrize("name", ["bert", "nobody"])
def test_a_default_router_that_nobody_fitted_is_broken(doctor: Doctor, name: str) -> None:
    code, checks = doctor(f"[routing]\nrouter = '{name}'\n")
    assert code == 1
    assert name in checks["router"]["detail"]


def test_the_encoder_is_named_as_it_is_used(doctor: Doctor, tmp_path: Path) -> None:
    write_encoder(tmp_path / "encoder")
    _, checks = doctor(f"[embedding]\nencoder = '{tmp_path / 'encoder'}'\nmax_tokens = 32\ncache_bytes = 0\n")
    assert checks["encoder"]["detail"] == f"{tmp_path / 'encoder'}@int8,32, not cached"
    _, checks = doctor("[embedding]\nencoder = 'static'\n")
    assert checks["encoder"]["detail"] == "static@256, not cached"
    code, checks = doctor("[embedding]\nencoder = 'org/model'\n")
    assert code == 0
    assert "fetched from a hub" in checks["encoder"]["detail"]
    code, checks = doctor("[embedding]\nencoder = 'endpoint:e5'\n")
    assert code == 1
    assert "base_url" in checks["encoder"]["detail"]


def test_an_encoder_that_nobody_named_may_be_missing(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules["routing_service.embedding.model_files"].PACKAGED, "minilm", ("no_such", "no-such"))
    code, checks = doctor("[embedding]\nmax_tokens = 77\n")
    assert code == 0
    assert checks["encoder"]["ok"] is None
    assert "no-such" in checks["encoder"]["detail"]


def test_a_running_stacks_own_configuration_is_checked(doctor: Doctor, state: StateDir, tmp_path: Path) -> None:
    own = tmp_path / "elsewhere" / "own.toml"
    own.parent.mkdir()
    own.write_text("[routing]\nrouter = 'random'\nseed = 7\n")
    state.update_stack(config=str(own), database_url="postgresql+psycopg://127.0.0.1:9/none")
    with locked(state.supervisor_lock):  # as supervisord holds it
        _, checks = doctor("")
        assert checks["configuration"]["ok"]
        assert str(own) in checks["configuration"]["detail"]
        assert checks["router"]["detail"] == "random, seed 7"
    _, checks = doctor("")  # of a stack that ended it says nothing
    assert checks["configuration"]["ok"] is False
