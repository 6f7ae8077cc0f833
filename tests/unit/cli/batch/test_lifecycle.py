"""`routebatch pause`, `resume` and `cancel`."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from tests.support.client_server import FakeApi, batch, completed


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_cancel_waits_if_asked_and_says_if_the_batch_was_faster(api: FakeApi) -> None:
    result = run("cancel", "batch_1")
    assert (result.exit_code, api.acted) == (0, ["/v1/batches/batch_1/cancel"])
    assert "cancelling" in result.stdout
    api.states = [batch("cancelling"), batch("cancelled")]
    assert run("cancel", "batch_1", "--wait").exit_code == 0
    api.states = [completed()]
    assert run("cancel", "batch_1", "--wait").exit_code == 1


@pytest.mark.parametrize("action", ["pause", "resume"])
def test_pause_and_resume_ask_for_it_and_show_the_batch(api: FakeApi, action: str) -> None:
    result = run(action, "batch_1", "--json")
    assert (result.exit_code, api.acted) == (0, [f"/v1/batches/batch_1/{action}"])
    assert json.loads(result.stdout)["id"] == "batch_1"
