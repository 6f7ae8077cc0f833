"""`routebatch explain`: a router's reasons as tables or JSON, whatever their shape."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from routing_service.routers import registry
from tests.support.routers.fake_router import LengthRouter


@pytest.fixture(autouse=True)
def _routers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(registry.METHODS, "length", "tests.support.routers.fake_router:LengthRouter")
    built = registry.make_router
    monkeypatch.setattr(registry, "make_router", lambda name, s: LengthRouter() if name == "length" else built(name, s))


def explain(*arguments: str, stdin: str | bytes | None = None, router: str = "length") -> Result:
    return CliRunner().invoke(main, ["explain", "--router", router, *arguments], input=stdin)


def test_json_is_what_the_router_says() -> None:
    printed = json.loads(explain("--prompt", "one three", "--json").stdout)
    assert printed == LengthRouter().explain("one three")


def test_tables_show_figures_lists_and_what_is_nested_in_them_as_plain_text() -> None:
    result = explain("--prompt", "one " + "x" * 300)
    assert result.exit_code == 0, result.output
    for text in ("win rate", "15.7000", "[bold]by length[/bold]", "length: words", "letters", "300"):
        assert text in result.stdout
    assert "x" * 100 + "…" in result.stdout
    assert "length: members 1: one" in result.stdout
    assert "length: members 1: one: parts" in result.stdout


def test_a_prompt_is_read_from_stdin_whole() -> None:
    printed = json.loads(explain("--prompt", "-", "--json", stdin="two\nlines").stdout)
    assert [word["word"] for word in printed["words"]] == ["two", "lines"]
    assert explain("--prompt", "-", stdin=b"\xff").exit_code == 1


def test_the_router_that_ships_and_the_random_one_explain_themselves() -> None:
    for name in ("gain", "random"):
        printed = json.loads(explain("--prompt", "What is 3 + 4?", "--json", router=name).stdout)
        assert printed["router"] == name
        assert 0 <= printed["win_rate"] <= 1
        assert explain("--prompt", "What is 3 + 4?", router=name).exit_code == 0


def test_errors_are_clean_and_the_prompt_is_required() -> None:
    result = explain("--prompt", "")
    assert (result.exit_code, result.stderr) == (1, "Error: the length router has nothing to say of nothing\n")
    assert explain().exit_code == 2
    assert explain("--prompt", "a", router="nowhere").exit_code == 2
