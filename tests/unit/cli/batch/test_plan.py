"""`routebatch plan` against a stand-in for the API: what it sends, prints and draws, and how it exits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from tests.support.client_server import KEY, FakeApi, Json, batch, serving

Run = Callable[..., Result]


def rung(budget: str, gain: float, strong: float) -> Json:
    return {
        "budget_usd": budget,
        "expected_cost_usd": budget,
        "gain": gain,
        "low": gain - 0.05,
        "high": gain + 0.05,
        "recovered": gain / 0.2,
        "share": {"weak": 1 - strong, "strong": strong},
    }


def scoring(scored: int) -> Json:
    status = "scoring" if scored else "validating"
    return {"id": "batch_1", "status": status, "requests": {"total": 4 if scored else 0, "scored": scored}}


def ready(**changes: Any) -> Json:
    return {
        "id": "batch_1",
        "status": "ready",
        "requests": {"total": 4, "scored": 4},
        "router": "gain",
        "candidates": ["weak", "strong"],
        "unscored": False,
        "budget_usd": None,
        "least_budget_usd": "0.0011",
        "all_weak_usd": "0.001",
        "all_strong_usd": "0.09",
        "interval": 0.9,
        "ladder": [rung("0.0011", 0.0, 0.0), rung("0.05", 0.125, 0.5), rung("0.09", 0.2, 1.0)],
        "chosen": None,
        "budget_too_small": False,
    } | changes


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeApi]:
    monkeypatch.setenv("ROUTEBATCH_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("one\n\ntwo\n")
    with serving(FakeApi(plans=[scoring(0), scoring(2), ready()])) as api:
        monkeypatch.setenv("ROUTEBATCH_URL", api.url)
        monkeypatch.setenv("ROUTEBATCH_API_KEY", KEY)
        yield api


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["plan", *arguments])


def test_a_file_becomes_a_plan_that_is_shown_once_it_is_there(api: FakeApi) -> None:
    result = run("prompts.txt", "--router", "random")
    assert result.exit_code == 0
    assert api.made_at == ["/v1/batches/plan"]
    assert api.created[0]["routing"] == {"router": "random"}
    for cell in ("batch_1", "$0.0011", "$0.09", "50.0 %", "+0.125", "+0.075 to +0.175", "90 % interval"):
        assert cell in result.stdout
    assert "routebatch submit --plan batch_1" in result.stderr


def test_a_budget_of_ones_own_stands_among_the_rungs(api: FakeApi) -> None:
    api.plans = [ready(budget_usd="0.02", chosen=rung("0.02", 0.05, 0.2))]
    result = run("prompts.txt", "--budget", "0.02")
    assert api.created[0]["routing"] == {"budget_usd": "0.02"}
    [line] = [line for line in result.stdout.splitlines() if "yours" in line]
    assert "$0.02" in line
    assert "20.0 %" in line


def test_a_budget_below_the_least_says_so_and_exits_with_three(api: FakeApi) -> None:
    api.plans = [ready(budget_usd="0.001", budget_too_small=True)]
    result = run("prompts.txt", "--budget", "0.001")
    assert result.exit_code == 3
    assert "below the least" in result.stderr


def test_json_is_the_plan_alone(api: FakeApi) -> None:
    assert json.loads(run("prompts.txt", "--json").stdout) == ready()


def test_a_plan_that_was_made_before_is_shown_again_without_a_file(api: FakeApi) -> None:
    assert json.loads(run("--id", "batch_1", "--json").stdout)["id"] == "batch_1"
    assert not api.uploads


@pytest.mark.parametrize("chosen", [None, rung("0.02", 0.05, 0.2)])
def test_the_frontier_is_drawn_as_a_png(api: FakeApi, chosen: Json | None) -> None:
    api.plans = [ready(chosen=chosen)]
    result = run("prompts.txt", "--plot", "frontier.png")
    assert result.exit_code == 0, result.output
    content = Path("frontier.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(content) > 10_000
    assert "wrote frontier.png" in result.stderr


def test_a_file_that_is_refused_is_named_by_its_own_lines(api: FakeApi) -> None:
    errors = {"object": "list", "data": [{"code": "bad", "message": "No.", "param": None, "line": 2}]}
    api.plans = [{"id": "batch_1", "status": "failed", "requests": {"total": 0, "scored": 0}}]
    api.states = [batch("failed", errors=errors)]
    result = run("prompts.txt")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "line 3: bad: No.\n" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["prompts.txt", "--id", "batch_1"],
        ["--id", "batch_1", "--router", "random"],
        ["prompts.txt", "--plot", "nowhere/a.png"],
        ["prompts.txt", "--plot", "prompts.txt"],
        ["prompts.txt", "--budget", "0"],
    ],
)
def test_wrong_usage_exits_with_two_before_anything_is_sent(api: FakeApi, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert not api.uploads


def test_submit_runs_a_plan_under_a_budget(api: FakeApi) -> None:
    result = CliRunner().invoke(main, ["submit", "--plan", "batch_1", "--budget", "0.05"])
    assert (result.exit_code, result.stdout) == (0, "batch_1\n")
    assert api.acted == ["/v1/batches/batch_1/approve"]
    assert not api.uploads


@pytest.mark.parametrize("more", [["prompts.txt"], ["--router", "random"], ["--format", "text"]])
def test_submit_takes_a_plan_or_a_file_with_options(api: FakeApi, more: list[str]) -> None:
    assert CliRunner().invoke(main, ["submit", "--plan", "batch_1", *more]).exit_code == 2
    assert CliRunner().invoke(main, ["submit"]).exit_code == 2


def test_a_plan_that_waits_is_listed_as_such_and_ends_a_watch(api: FakeApi) -> None:
    waiting = batch("in_progress")
    waiting["routing"] |= {"budget_usd": None, "paused": "approval", "plan": "ready"}
    api.states = api.listed = [waiting]
    for command in (["status", "batch_1"], ["watch", "batch_1"], ["list"]):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0
        assert "plan, awaits approval" in result.stdout
