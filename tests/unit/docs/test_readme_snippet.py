"""The README's first lines with the OpenAI SDK do what they say, and leave nothing open."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.client_server import KEY, FakeApi, serving
from tests.support.paths import ROOT

SNIPPET = (ROOT / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]


@pytest.mark.filterwarnings("error::ResourceWarning")
def test_the_snippet_uploads_its_file_and_creates_a_batch_under_a_budget(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state = tmp_path / ".local/state/routebatch"
    state.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    with serving(FakeApi()) as api:
        (state / "stack.json").write_text(json.dumps({"api_url": api.url, "api_key": KEY}))
        names: dict[str, object] = {}
        exec(compile(SNIPPET, "README.md", "exec"), names)
        names["client"].close()  # type: ignore[attr-defined]
        names.clear()
    assert len(api.lines) == 600
    assert api.created[0]["routing"] == {"budget_usd": "1.00"}
