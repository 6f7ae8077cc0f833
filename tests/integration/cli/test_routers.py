"""`routebatch routers`, as an operator runs it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from cli.main import main
from routing_service.db import Database
from routing_service.plans.compare_routers import compare
from routing_service.router_versions.versions import note_failure, promote
from routing_service.routers import registry as routers_module
from routing_service.routers.base import Floats
from routing_service.settings import Settings
from tests.support.factories import chat_line, make_settings, planned_batch
from tests.support.routers.fake_router import LengthRouter
from tests.support.routers.fitted_fake import FakeRouter

CONFIG = """
artifact_url = "{store}"
artifact_cache = "{cache}"
[models.strong]
name = "s"
base_url = "http://127.0.0.1:9/v1"
input_usd_per_million = 10
output_usd_per_million = 30
[models.weak]
name = "w"
base_url = "http://127.0.0.1:9/v1"
input_usd_per_million = 0.15
output_usd_per_million = 0.6
[routing]
candidates = ["weak", "strong"]
"""


@pytest.fixture
def routebatch(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("ROUTEBATCH_DATABASE_URL", database_url)
    monkeypatch.setitem(routers_module.METHODS, "fake", "tests.support.routers.fitted_fake:FakeRouter")
    monkeypatch.chdir(tmp_path)
    Path("routebatch.toml").write_text(CONFIG.format(store=tmp_path / "store", cache=tmp_path / "cache"))
    for name, strong in (("one", 0.2), ("two", 0.6)):
        FakeRouter({"weak": 0.0, "strong": strong}, {"seed": 7}).save(tmp_path / name)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, arguments)

    return run


def said(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_fitted_router_is_registered_promoted_and_rolled_back(
    routebatch: Any, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "the built-in router serves" in routebatch("routers", "list").output
    first, second = (said(routebatch("routers", "register", name, "--json")) for name in ("one", "two"))
    assert (first["name"], first["method"], first["state"]) == ("version-1", "fake", "candidate")
    assert said(routebatch("routers", "register", "one", "--json")) == first
    assert "version-1 is active, in place of gain" in routebatch("routers", "promote", "1").output
    assert said(routebatch("routers", "promote", "version-2", "--reason", "better", "--json")) == {
        "changed": True,
        "active": "version-2",
        "before": "version-1",
    }
    assert "version-2 is active already" in routebatch("routers", "promote", "2").output
    assert routebatch("routers", "promote", "2").stderr == ""
    monkeypatch.setenv("ROUTEBATCH_ROUTING__ROUTER", "random")
    assert "batches that name no router still get 'random'" in routebatch("routers", "promote", "2").stderr
    assert [row["state"] for row in said(routebatch("routers", "list", "--json"))] == ["active", "retired"]
    shown = said(routebatch("routers", "show", "2", "--json"))
    assert shown["details"]["metadata"]["seed"] == 7
    assert [(row["reason"], row["rolled_back"]) for row in shown["promotions"]] == [("better", False)]
    assert shown["artifact"] == second["artifact"]
    assert "seed" in routebatch("routers", "show", "version-2").output
    assert said(routebatch("routers", "rollback", "--json"))["active"] == "version-1"
    assert "gain is active, in place of version-1" in routebatch("routers", "rollback").output
    nothing = routebatch("routers", "rollback")
    assert nothing.exit_code == 1
    assert "the built-in one serves" in nothing.output
    with database.transaction() as session:
        note_failure(session, 2, "ArtifactError: gone")
    assert "ArtifactError: gone" in routebatch("routers", "list").output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("promote", "7"), 1, "There is no router 'version-7'"),
        (("show", "7"), 1, "There is no router 'version-7'"),
        (("promote", "gain"), 2, "'gain' is no router version: write 12 or version-12"),
        (("register", "empty"), 1, "cannot read the router artifact"),
        (("diff", "gain", "7"), 1, "There is no router 'version-7'"),
        (("diff", "gain", "nobody"), 2, "no such directory, and no router's name"),
    ],
)
def test_what_cannot_be_is_said(routebatch: Any, arguments: tuple[str, ...], code: int, message: str) -> None:
    Path("empty").mkdir()
    result = routebatch("routers", *arguments)
    assert (result.exit_code, message in result.output) == (code, True), result.output


def test_other_commands_take_a_version_for_a_router(routebatch: Any, database: Database) -> None:
    routebatch("routers", "register", "one")
    Path("prompts.txt").write_text("What is 2 + 2?\n")
    for name in ("1", "version-1"):
        assert routebatch("score", "prompts.txt", "--router", name).stdout.splitlines()[1].startswith("0.600000,")
    assert said(routebatch("explain", "--router", "auto", "--prompt", "a", "--json"))["router"] == "gain"
    with database.transaction() as session:
        promote(session, 1, "")
    assert said(routebatch("explain", "--router", "auto", "--prompt", "a", "--json"))["router"] == "fake"


def test_doctor_shows_the_active_version_and_that_it_failed_to_load(routebatch: Any, database: Database) -> None:
    def finding() -> dict[str, Any]:
        checks = json.loads(routebatch("doctor", "--json").stdout)
        return next(check for check in checks if check["name"] == "router version")

    assert (finding()["ok"], finding()["detail"]) == (True, "none is active: the built-in router serves")
    routebatch("routers", "register", "one")
    routebatch("routers", "promote", "1")
    assert finding()["detail"].startswith("version-1 (fake), active since ")
    with database.transaction() as session:
        note_failure(session, 1, "ArtifactError: gone")
    assert finding()["ok"] is False


def completed(database: Database, settings: Settings, lines: list[Any], **columns: Any) -> str:
    """A batch whose requests went where its plan sends them."""
    batch_id = planned_batch(database, lines, settings, **columns)
    with database.transaction() as session:
        session.execute(
            text(
                "update requests set state = 'succeeded', response = '{}', finished_at = now(),"
                " model = case when ratio >= (select shadow_price from batches b where b.id = batch_id)"
                " then 'strong' else 'weak' end where batch_id = :id"
            ),
            {"id": batch_id},
        )
        session.execute(
            text("update batches set state = 'completed', completed_at = now() where id = :id"), {"id": batch_id}
        )
    return batch_id


class ShorterRouter(LengthRouter):
    """The shorter a prompt, the more it gains; it always does."""

    def _gain(self, prompts: Sequence[str], strong: str, weak: str) -> Floats:
        gain: Floats = np.float32(1.01) - super()._gain(prompts, strong, weak)
        return gain


LINES = [chat_line(f"c-{n}", "x" * (1 + n)) for n in range(10)]


def test_a_difference_counts_what_another_router_would_have_sent_elsewhere(database: Database) -> None:
    settings = make_settings()
    share = {"mode": "share", "strong_share": 0.3}
    completed(database, settings, LINES, options=share)
    completed(database, settings, LINES[:4], options=share)
    by_length = LengthRouter()
    difference = compare(database, settings, (by_length, ShorterRouter()), 1000)
    assert (difference.requests, difference.batches) == (14, 2)
    assert difference.models == {"weak": (10, 10), "strong": (4, 4)}
    assert difference.dearer * 2 == difference.elsewhere > 0
    assert compare(database, settings, (by_length, by_length), 1000).elsewhere == 0
    assert compare(database, settings, (by_length, by_length), 6).requests == 6


def test_by_money_both_routers_spend_what_the_requests_were_expected_to_cost(database: Database) -> None:
    settings = make_settings()
    batch_id = completed(database, settings, LINES, budget_nano=65_000_000)
    with database.transaction() as session:
        spent = session.scalar(
            text(
                "select sum(expected_cost_nano[case model when 'weak' then 1 else 2 end])::bigint from requests"
                " where batch_id = :id"
            ),
            {"id": batch_id},
        )
    difference = compare(database, settings, (LengthRouter(), ShorterRouter()), 1000)
    assert spent is not None
    one_upgrade = 9_000_000  # at most: what is left may not pay for another
    assert [0 <= spent - cost < one_upgrade for cost in difference.cost_nano] == [True, True]
    assert [3 < strong < 9 for strong in difference.models["strong"]] == [True, True]
    assert difference.elsewhere > 0


def test_a_threshold_is_held_by_each_router(database: Database) -> None:
    settings = make_settings()
    completed(database, settings, LINES, options={"mode": "threshold", "threshold": 0.75})
    difference = compare(database, settings, (LengthRouter(), LengthRouter()), 1000)
    assert difference.models["strong"] == (6, 6)  # of five characters and more


def test_diff_prints_the_difference(routebatch: Any, database: Database, tmp_path: Path) -> None:
    assert "no completed batch" in routebatch("routers", "diff", "gain", "random").output
    settings = make_settings()
    completed(database, settings, LINES, options={"mode": "threshold", "threshold": 0.7})
    routebatch("routers", "register", "one")
    routebatch("routers", "register", "two")
    actual = said(routebatch("routers", "diff", "1", "version-2", "--json"))
    assert (actual["requests"], actual["elsewhere"], actual["dearer"]) == (10, 10, 10)
    assert actual["models"] == {"weak": {"a": 10, "b": 0}, "strong": {"a": 0, "b": 10}}
    assert float(actual["expected_cost_usd"]["difference"]) > 0
    assert "10 (100.0 %) would have gone elsewhere" in routebatch("routers", "diff", "2", "1").output
