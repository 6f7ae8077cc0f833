"""`routebatch import-router`: foreign weights become an artifact, or are refused in words."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from cli.routers import import_router as command
from routing_service.errors import ArtifactError
from routing_service.routers.gain.router import GainRouter
from routing_service.routers.registry import DEFAULT_ARTIFACT, METHODS
from routing_service.settings import Settings

IMPORTERS = command.IMPORTERS


def import_any(path: Path, settings: Settings) -> GainRouter:
    """An importer for these tests."""
    if not (path / "config.json").is_file():
        raise ArtifactError(f"{path} holds no config.json")
    return GainRouter.load(DEFAULT_ARTIFACT, settings)


@pytest.fixture(autouse=True)
def _weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "IMPORTERS", {"matrix_factorization": f"{__name__}:import_any"})
    Path("weights").mkdir()
    Path("weights/config.json").write_text("{}")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["import-router", *arguments])


def test_weights_become_an_artifact_that_loads() -> None:
    for kind in ("mf", "matrix_factorization"):
        result = run(kind, "weights", "--output", kind)
        assert (result.exit_code, result.stdout) == (0, "")
        assert f"imported weights as gain: wrote {kind}" in result.stderr
        assert GainRouter.load(Path(kind)).gains(["why?"])[0].shape == (1,)


def test_json_alone_on_stdout() -> None:
    printed = json.loads(run("mf", "weights", "--output", "out", "--json").stdout)
    assert (printed["method"], printed["output"], printed["metadata"]["seed"]) == ("gain", "out", 0)


def test_what_cannot_be_imported_is_refused_and_nothing_is_written() -> None:
    Path("empty").mkdir()
    result = run("mf", "empty", "--output", "out")
    assert (result.exit_code, result.stderr) == (1, "Error: empty holds no config.json\n")
    assert not Path("out").exists()
    assert run("magic", "weights", "--output", "out").exit_code == 2
    assert run("mf", "nowhere", "--output", "out").exit_code == 2
    assert run("mf", "weights", "--output", "weights").exit_code == 2
    assert Path("weights/config.json").read_text() == "{}"


def test_every_importer_is_there_and_belongs_to_a_method() -> None:
    assert set(IMPORTERS) <= set(METHODS)
    for target in IMPORTERS.values():
        module, _, name = target.partition(":")
        assert callable(getattr(import_module(module), name))


@pytest.mark.parametrize("kind", IMPORTERS)
def test_a_directory_without_a_checkpoint_is_refused_by_every_importer(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "IMPORTERS", IMPORTERS)
    result = run(kind, "weights", "--output", "out")  # its config.json says nothing
    assert (result.exit_code, Path("out").exists()) == (1, False)
    assert result.stderr.startswith("Error: ")
    assert "weights" in result.stderr
