"""The default state directory, and a stand-in for the API that its stack.json points to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.client_server import KEY, FakeApi, serving


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The default state directory."""
    monkeypatch.setenv("ROUTEBATCH_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


@pytest.fixture
def api(state: Path) -> Iterator[FakeApi]:
    """A stand-in that the default state directory's stack.json points to."""
    with serving(FakeApi()) as api:
        (state / "stack.json").write_text(json.dumps({"api_url": api.url, "api_key": KEY}))
        yield api
