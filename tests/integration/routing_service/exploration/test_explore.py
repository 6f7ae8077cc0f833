"""Exploring batches: a random sample is asked of the other model too, within the budget that the client named."""

from __future__ import annotations

import random
from typing import Any

import pytest
from openai import OpenAI
from sqlalchemy import select

from routing_service.db import Database
from routing_service.dispatch.finish import finish
from routing_service.events import DispatchDue, FinishDue
from routing_service.exploration.explore import explore
from routing_service.exploration.pairs import PairedAnswer, read_pairs
from routing_service.ingest.ingest import ingest
from routing_service.models import Batch, BatchPurpose, BatchState, Budget, Decision, Request
from routing_service.money import ledger
from routing_service.money.pricing import price_book
from routing_service.plans.plan import plan
from routing_service.upstream.outcome import Usage
from tests.support.api_server import Api
from tests.support.extend import ask, shown, submit
from tests.support.factories import chat_line, score_all
from tests.support.plan_requests import get, post, ready_plan
from tests.support.pumping import budget_of
from tests.support.reading import batch_of
from tests.support.upstreams.replayed import run_out
from tests.support.upstreams.scripted import Stage


def planned(api: Api, client: OpenAI, lines: int | list[Any] = 40, **routing: Any) -> str:
    """A batch of the key that may be dispatched."""
    batch_id = submit(client, lines, **routing)
    assert ingest(api.database, api.settings, price_book(api.settings), batch_id)
    score_all(api.database, api.settings, batch_id)
    assert plan(api.database, api.settings, price_book(api.settings), batch_id)
    return batch_id


def answered(api: Api, client: OpenAI, lines: int | list[Any] = 40, **routing: Any) -> str:
    """One that has completed."""
    batch_id = planned(api, client, lines, **routing)
    Stage(api.database).pump()
    assert finish(api.database, batch_id)
    return batch_id


def explored(api: Api, batch_id: str) -> str | None:
    return explore(api.database, api.settings, price_book(api.settings), batch_id)


def pairs(database: Database, **which: Any) -> list[PairedAnswer]:
    with database.transaction() as session:
        return list(read_pairs(session, **which))


def explorations_of(database: Database) -> list[str | None]:
    with database.transaction() as session:
        return list(session.scalars(select(Batch.parent_id).where(Batch.purpose == BatchPurpose.EXPLORE)))


def test_a_sample_of_the_lines_is_asked_of_the_other_model(api: Api, client: OpenAI) -> None:
    batch_id = answered(api, client, explore_share=0.4, mode="share", strong_share=0.5, budget_usd="10")
    before = shown(client.batches.retrieve(batch_id))
    companion = explored(api, batch_id)
    assert companion is not None
    Stage(api.database).pump()
    assert finish(api.database, companion)

    answers = pairs(api.database, batch_id=batch_id)
    assert len(answers) == len({pair.line for pair in answers}) == 16
    assert {(p.batch_id, p.strong, p.weak, p.strong_answer, p.weak_answer) for p in answers} == {
        (batch_id, "strong", "weak", "4", "4")
    }
    assert all(pair.custom_id == f"request-{pair.line}" for pair in answers)
    assert all(pair.prompt == f"What is {pair.line} times 7?" for pair in answers)
    assert {round(pair.propensity, 6) for pair in answers} == {0.4}
    assert [pair.line for pair in answers] != sorted(pair.line for pair in answers)
    with api.database.transaction() as session:
        query = select(Decision.reason, Decision.propensity).where(Decision.batch_id == companion)
        assert {(str(reason), round(p, 6)) for reason, p in session.execute(query)} == {("explore", 0.4)}
        query = select(Decision.reason, Decision.propensity).where(Decision.batch_id == batch_id)
        assert {(str(reason), p) for reason, p in session.execute(query)} == {("share", 1.0)}
        second = select(Request.source_line, Request.model).where(Request.batch_id == companion)
        asked = dict(session.execute(second).all())
        lines = select(Request.line, Request.model).where(Request.batch_id == batch_id)
        first = dict(session.execute(lines).all())
        assert set(asked.values()) == {"weak", "strong"}
        assert all(line is not None and model != first[line] for line, model in asked.items())
        assert ledger.verify(session) == []
    after = shown(client.batches.retrieve(batch_id))
    own, other = budget_of(api.database, batch_id), budget_of(api.database, companion)
    assert (own.limit_nano, other.limit_nano) == (9_500_000_000, 500_000_000)
    assert after["budget_usd"] == before["budget_usd"] == "10.00"
    assert round(float(after["settled_usd"]) * 1e9) == own.settled_nano + other.settled_nano
    assert after["exploration"] == before["exploration"] | {
        "settled_usd": f"{other.settled_nano / 1e9:.9f}".rstrip("0"),
        "pairs": 16,
    }
    assert before["exploration"] == {"share": 0.4, "budget_usd": "0.50", "settled_usd": "0.00", "pairs": 0}
    assert [batch.id for batch in client.batches.list()] == [batch_id]


def test_a_batch_is_explored_once_even_if_whoever_ended_it_died(api: Api, client: OpenAI) -> None:
    batch_id = answered(api, client, explore_share=1)
    stage = Stage(api.database)
    stage.change("update batches set announced_at = now() - interval '1 day'")
    assert FinishDue(batch_id) in stage.sweep().events
    assert explored(api, batch_id)
    assert explored(api, batch_id) is None
    assert explorations_of(api.database) == [batch_id]
    stage.change("update batches set announced_at = now() - interval '1 day'")
    events = stage.sweep().events
    assert DispatchDue() in events
    assert FinishDue(batch_id) not in events


def test_a_cancelled_batch_is_not_explored(api: Api, client: OpenAI) -> None:
    batch_id = planned(api, client, explore_share=1)
    client.batches.cancel(batch_id)
    assert finish(api.database, batch_id)
    assert explored(api, batch_id) is None
    stage = Stage(api.database)
    stage.change("update batches set announced_at = now() - interval '1 day'")
    assert stage.sweep().events == []


def test_a_batch_that_says_nothing_of_it_is_not_explored(api: Api, client: OpenAI) -> None:
    batch_id = answered(api, client, 5)
    assert explored(api, batch_id) is None
    assert "exploration" not in shown(client.batches.retrieve(batch_id))
    assert budget_of(api.database, batch_id).limit_nano == 1_000_000_000


def test_only_what_the_plan_has_sent_somewhere_is_explored(api: Api, client: OpenAI) -> None:
    lines = [chat_line("plain"), chat_line("pinned", routing={"model": "weak"})]
    for name in ("first", "duplicate"):
        line = chat_line(name, "the same")
        lines.append(line | {"body": line["body"] | {"temperature": 0}})
    lines.append(chat_line("capped", "cheap only", routing={"max_cost_usd": 0.001}))
    batch_id = answered(api, client, lines, explore_share=1, mode="share", strong_share=0)
    companion = explored(api, batch_id)
    with api.database.transaction() as session:
        query = select(Request.custom_id).where(Request.batch_id == companion).order_by(Request.custom_id)
        assert list(session.scalars(query)) == ["first", "plain"]


@pytest.mark.parametrize("seed", range(3))
def test_batch_and_exploration_together_never_spend_more_than_was_asked_for(
    api: Api, client: OpenAI, seed: int
) -> None:
    """Calls take anything up to their worst case, and the money is scarce."""
    rng = random.Random(seed)
    batch_id = planned(api, client, 60, budget_usd="0.05", explore_share=1)

    def run(current: str) -> Budget:
        run_out(api.database, api.settings, current, lambda ticket: Usage(rng.randint(1, 30), rng.randint(1, 512)))
        assert finish(api.database, current)
        return budget_of(api.database, current)

    budgets = [run(batch_id)]
    companion = explored(api, batch_id)
    assert companion is not None
    budgets.append(run(companion))
    with api.database.transaction() as session:
        assert ledger.verify(session) == []
    assert sum(budget.limit_nano for budget in budgets) == 50_000_000
    assert budgets[1].settled_nano > 0
    assert sum(budget.settled_nano for budget in budgets) <= 50_000_000
    assert sum(budget.reserved_nano + budget.overrun_nano for budget in budgets) == 0


def test_the_least_budget_that_is_named_does_for_a_batch_that_explores(api: Api, client: OpenAI) -> None:
    refused = submit(client, explore_share=0.1, budget_usd="0.0001")
    assert ingest(api.database, api.settings, price_book(api.settings), refused) is BatchState.FAILED
    errors = client.batches.retrieve(refused).errors
    assert errors is not None
    assert errors.data is not None
    said = str(errors.data[0].message)
    assert "budget of $0.0001 is too small" in said
    least = said.rpartition("$")[2].rstrip(".")
    assert ingest(
        api.database, api.settings, price_book(api.settings), submit(client, explore_share=0.1, budget_usd=least)
    )
    without = submit(client, budget_usd=f"{0.94 * float(least):.9f}")
    assert ingest(api.database, api.settings, price_book(api.settings), without) is BatchState.FAILED


def test_a_top_up_goes_to_the_batch_itself(api: Api, client: OpenAI) -> None:
    batch_id = planned(api, client, explore_share=0.1)
    assert shown(ask(client, batch_id, "top_up", "1"))["budget_usd"] == "2.00"
    batch = batch_of(api.database, batch_id)
    assert (batch.explore_nano, batch.options["budget_usd"]) == (50_000_000, "2.00")
    assert budget_of(api.database, batch_id).limit_nano == 1_950_000_000


def test_a_plan_shows_whole_budgets_and_its_approval_sets_a_part_aside(api: Api, client: OpenAI) -> None:
    batch_id = ready_plan(api, client, budget_usd="0.25", explore_share=0.1)
    shown = get(client, f"/batches/{batch_id}/plan")
    assert shown["budget_usd"] == shown["chosen"]["budget_usd"] == "0.25"
    plain = get(client, f"/batches/{ready_plan(api, client, budget_usd='0.25')}/plan")
    assert float(shown["least_budget_usd"]) == pytest.approx(float(plain["least_budget_usd"]) / 0.95, abs=2e-6)
    assert shown["chosen"]["expected_cost_usd"] < plain["chosen"]["expected_cost_usd"]
    post(client, f"/batches/{batch_id}/approve", {"budget_usd": shown["least_budget_usd"]})
    least = round(float(shown["least_budget_usd"]) * 1e9)
    own = budget_of(api.database, batch_id).limit_nano
    assert own + batch_of(api.database, batch_id).explore_nano == least
    assert own == pytest.approx(0.95 * least, abs=1)
