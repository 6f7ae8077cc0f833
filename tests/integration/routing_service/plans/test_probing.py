"""Probes: what a batch sends before anything is known of what answers cost, and what follows from them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select, text

from routing_service.db import Database
from routing_service.dispatch.lease import open_lease
from routing_service.dispatch.settle import settle
from routing_service.dispatch.sweep import sweep
from routing_service.events import PlanDue
from routing_service.models import AttemptState, Batch, EntryBasis, Request, RequestState
from routing_service.money.pricing import cost_nano, price_book
from routing_service.plans.probing import Probing
from routing_service.plans.replan import replan, take_due
from routing_service.scoring.lengths import fit_lengths
from routing_service.upstream.outcome import Outcome, RetryPolicy, Usage
from tests.support.factories import STRONG, WEAK, chat_line, make_settings, planned_batch
from tests.support.fakes import FakePublisher
from tests.support.reading import batch_of
from tests.support.settled import answer, question
from tests.support.upstreams.replayed import Answered, claimed, left_of_budget, run_out

SETTINGS = make_settings(budget={})
PRICES = price_book(SETTINGS)
DOLLAR = 10**9
FREE = {"input_usd_per_million": "0", "output_usd_per_million": "0"}


def lines(n: int) -> list[Any]:
    return [chat_line(str(i), question(i)) for i in range(n)]


def short(line: int) -> tuple[int, int]:
    """Tokens of a question and of its answer: a tenth of what is expected."""
    tokens = (8 if line % 2 else 32) * np.random.default_rng(line).lognormal(0, 0.3)
    return len(question(line)) // 4 + 8, max(1, int(tokens))


def test_before_costs_are_known_each_model_gets_its_probes_and_no_more(database: Database) -> None:
    batch_id = planned_batch(database, lines(160), SETTINGS, budget_nano=DOLLAR)
    assert batch_of(database, batch_id).probes == 10
    pump = open_lease(database, 3600).pump_id
    tickets = claimed(database, SETTINGS, pump, batch_id)
    assert {m: sum(t.model == m for t in tickets) for m in ("weak", "strong")} == {"weak": 10, "strong": 10}
    assert claimed(database, SETTINGS, pump, batch_id) == []


def test_when_most_probes_are_answered_the_batch_is_cut_anew_and_goes_on(database: Database) -> None:
    batch_id = planned_batch(database, lines(160), SETTINGS, budget_nano=DOLLAR)
    pump = open_lease(database, 3600).pump_id
    tickets = claimed(database, SETTINGS, pump, batch_id)
    settled = Answered(database, SETTINGS, lambda ticket: Usage(*short(ticket.line)))
    weak = [t for t in tickets if t.model == "weak"]
    strong = [t for t in tickets if t.model == "strong"]
    assert settled(weak) == []  # strong's are in flight: nothing is known of them
    assert settled(strong[:8]) == [batch_id]
    assert replan(database, SETTINGS, price_book(SETTINGS), batch_id)
    batch = batch_of(database, batch_id)
    assert batch.probes is None
    assert batch.cost_factors == pytest.approx([0.1, 0.1], abs=0.06)
    assert 0 < batch.floor_factor < 0.3
    assert len(claimed(database, SETTINGS, pump, batch_id)) > 20


def test_a_model_that_the_first_cut_does_not_ask_is_probed_after_the_second(database: Database) -> None:
    """The budget seems to cover nothing but the weak model, until its short answers say that strong's are short too."""
    least = batch_of(database, planned_batch(database, lines(160), SETTINGS, budget_nano=DOLLAR)).floor_nano
    batch_id = planned_batch(database, lines(160), SETTINGS, budget_nano=int(least * 1.05))
    pump = open_lease(database, 3600).pump_id
    settled = Answered(database, SETTINGS, lambda ticket: Usage(*short(ticket.line)))
    first = claimed(database, SETTINGS, pump, batch_id)
    assert {ticket.model for ticket in first} == {"weak"}
    assert settled(first) == [batch_id]
    assert claimed(database, SETTINGS, pump, batch_id) == []  # whatever comes before the new cut waits for it
    assert replan(database, SETTINGS, price_book(SETTINGS), batch_id)
    second = claimed(database, SETTINGS, pump, batch_id)
    assert {ticket.model for ticket in second} == {"strong"}
    assert batch_of(database, batch_id).probes == 10


def test_probes_that_cannot_be_sent_hold_nothing_back(database: Database) -> None:
    """Every line is pinned to weak, so strong never answers."""
    pins = [chat_line(str(i), question(i), routing={"model": "weak"}) for i in range(80)]
    batch_id = planned_batch(database, pins, SETTINGS, budget_nano=DOLLAR)
    assert batch_of(database, batch_id).probes is not None
    run_out(database, SETTINGS, batch_id, lambda ticket: Usage(*short(ticket.line)))
    assert states(database, batch_id) == {RequestState.SUCCEEDED}


@pytest.mark.parametrize(
    ("weak", "strong", "budget"), [(FREE, FREE, DOLLAR), (FREE, {}, 100_000)], ids=["all is free", "only weak fits"]
)
def test_probes_of_a_free_model_hold_nothing_back(
    database: Database, weak: dict[str, str], strong: dict[str, str], budget: int
) -> None:
    """One model gets no line by the plan, and what the answers of the free one cost says nothing."""
    settings = make_settings(models={"strong": STRONG | strong, "weak": WEAK | weak}, budget={})
    batch_id = planned_batch(database, lines(80), settings, budget_nano=budget)
    assert batch_of(database, batch_id).probes is not None
    run_out(database, settings, batch_id, lambda ticket: Usage(*short(ticket.line)))
    assert states(database, batch_id) == {RequestState.SUCCEEDED}


def test_answers_without_content_are_no_answers_to_probes(database: Database) -> None:
    """What they cost is not what an answer costs: nothing can be cut by them, and the batch does not wait for it."""
    batch_id = planned_batch(database, lines(80), SETTINGS, budget_nano=DOLLAR)
    tickets = claimed(database, SETTINGS, open_lease(database, 3600).pump_id, batch_id)
    empty = Outcome(AttemptState.SUCCEEDED, EntryBasis.ESTIMATED, status_code=200, error_code="empty_answer")
    with database.transaction() as session:
        settle(session, [t.result(empty) for t in tickets], RetryPolicy.of(SETTINGS.dispatch), random.Random(0))
        probing = Probing.of(session, batch_id, ["weak", "strong"], 5)
    assert set(probing.answered.values()) == set(probing.in_flight.values()) == {0}


def test_a_lost_message_of_probes_is_sent_again_by_the_sweep(database: Database) -> None:
    batch_id = planned_batch(database, lines(80), SETTINGS, budget_nano=DOLLAR)
    with database.transaction() as session:
        session.execute(text("update batches set announced_at = now() - interval '1 hour'"))
    publisher = FakePublisher()
    sweep(database, SETTINGS, publisher)
    assert PlanDue(batch_id) in publisher.events


def test_a_batch_of_models_with_learned_lengths_needs_no_probes(database: Database) -> None:
    for model in ("weak", "strong"):
        answer(database, range(500), model)
    fit_lengths(database, SETTINGS)
    assert batch_of(database, planned_batch(database, lines(80), SETTINGS, budget_nano=DOLLAR)).probes is None


@pytest.mark.parametrize(
    ("count", "options", "probes"), [(49, {}, None), (50, {}, 4), (80, {"mode": "share", "strong_share": 0.5}, None)]
)
def test_only_what_is_planned_by_costs_and_large_enough_is_probed(
    database: Database, count: int, options: dict[str, Any], probes: int | None
) -> None:
    batch_id = planned_batch(database, lines(count), SETTINGS, budget_nano=DOLLAR, options=options)
    assert batch_of(database, batch_id).probes == probes


def test_probing_ends_in_vain_only_when_nothing_was_in_its_way() -> None:
    known = Probing(4, {"weak": 0, "strong": 0}, {"weak": 4, "strong": 0})
    assert known.in_vain({"weak": 0, "strong": 1}, cut=True)
    assert not known.in_vain({"weak": 0, "strong": 1}, cut=False)  # the cut by weak's answers is still to come
    assert not known.in_vain({"weak": 1, "strong": 0}, cut=True)  # other batches hold strong's slots
    assert not Probing(4, {"weak": 1, "strong": 0}, {"weak": 3, "strong": 0}).in_vain({"strong": 1}, cut=True)


def test_money_that_drifts_makes_a_new_cut_due_before_its_share_of_requests_is_answered(database: Database) -> None:
    batch_id = planned_batch(database, lines(400), SETTINGS, budget_nano=4 * DOLLAR)
    with database.transaction() as session:
        session.execute(text("update batches set probes = null, replan_at = 100"))
    pump = open_lease(database, 3600).pump_id
    tickets = [t for t in claimed(database, SETTINGS, pump, batch_id) if t.model == "strong"]
    settled = Answered(database, SETTINGS, lambda _: Usage(1000, 1000))  # four times what is expected
    expected = batch_of(database, batch_id).expected_cost_nano or 0
    due: list[str] = []
    for ticket in tickets[:20]:
        assert batch_of(database, batch_id).drift_nano <= 0.05 * expected
        due = settled([ticket])
        if due:
            break
    assert due == [batch_id]
    assert batch_of(database, batch_id).drift_nano == 0
    with database.transaction() as session:
        assert take_due(session, [batch_id]) == []


@pytest.mark.parametrize(
    ("count", "share", "prior", "times"), [(500, 0.4, 256, 1), (500, 0.7, 60, 10), (250, 0.5, 256, 1)]
)
def test_a_bad_prior_leaves_no_more_of_a_binding_budget_than_a_worst_case(
    database: Database, count: int, share: float, prior: int, times: int
) -> None:
    """Answers are a tenth of what is expected, or three times that: the first batch learns it by its probes."""
    changes = {"max_output_tokens": 256, "expected_output_tokens": prior}
    settings = make_settings(models={"strong": STRONG | changes, "weak": WEAK | changes}, budget={})

    def used(line: int) -> tuple[int, int]:
        tokens_in, tokens_out = short(line)
        return tokens_in, min(256, tokens_out * times)

    numbers = range(1, count + 1)
    cost = {model: sum(cost_nano(PRICES.price(model, 0), *used(n)) for n in numbers) for model in ("weak", "strong")}
    budget = int(cost["weak"] + share * (cost["strong"] - cost["weak"]))
    batch_id = planned_batch(database, lines(count), settings, budget_nano=budget)
    run_out(database, settings, batch_id, lambda ticket: Usage(*used(ticket.line)))
    with database.transaction() as session:
        rows = session.scalars(select(Request).where(Request.batch_id == batch_id)).all()
    sizes = (np.array([max(row.input_bytes for row in rows)]), np.array([256]), np.array([1]))
    worst = int(PRICES.worst_cases("strong", settings.models["strong"], *sizes)[0])
    assert {row.state for row in rows} == {RequestState.SUCCEEDED}
    assert 0 <= left_of_budget(database, batch_id) <= max(0.03 * budget, worst)


def states(database: Database, batch_id: str) -> set[RequestState]:
    with database.transaction() as session:
        return set(session.scalars(select(Request.state).join(Batch).where(Batch.id == batch_id)))
