"""Scoring on a real database: ranges become scored rows once, and a failing router never stops a batch."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select, text

from routing_service.db import Database
from routing_service.dispatch.sweep import sweep
from routing_service.errors import ScoringError
from routing_service.models import Request, RequestState, ScoreRange
from routing_service.money.pricing import price_book
from routing_service.routers.base import Floats
from routing_service.routers.random import RandomRouter
from routing_service.routers.registry import Routers
from routing_service.scoring.score import score
from tests.support.factories import STRONG, chat_line, ingested_batch, make_settings
from tests.support.fakes import FakePublisher
from tests.support.reading import batch_of

SETTINGS = make_settings(score={"range_lines": 4, "max_attempts": 3})
ROUTERS = Routers(SETTINGS)
INF = float("inf")


class FailingRouter(RandomRouter):
    """Raises so often, then works. Stands for its own source."""

    name = "failing"

    def __init__(self, failures: int = 10**9, error: Exception | None = None) -> None:
        super().__init__()
        self.failures = failures
        self.error = error or RuntimeError("out of memory")
        self.calls = 0

    def get(self, name: str) -> FailingRouter:
        return self

    def serving(self) -> str:
        return self.name

    def score(self, prompts: Sequence[str], models: Sequence[str]) -> tuple[Floats, Floats]:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return RandomRouter().score(prompts, models)

    def win_rates(self, prompts: Sequence[str], strong: str, weak: str) -> Floats:
        self.score(prompts, [weak, strong])
        return RandomRouter().win_rates(prompts, strong, weak)


def rows_of(database: Database, batch_id: str) -> Sequence[Request]:
    with database.transaction() as session:
        return session.scalars(select(Request).where(Request.batch_id == batch_id).order_by(Request.line)).all()


def attempts(database: Database, batch_id: str) -> list[int]:
    with database.transaction() as session:
        query = select(ScoreRange.attempts).where(ScoreRange.batch_id == batch_id)
        return list(session.scalars(query.order_by(ScoreRange.first_line)))


def test_the_last_range_of_a_batch_says_so(database: Database) -> None:
    batch_id = ingested_batch(database, 10, SETTINGS)
    prices = price_book(SETTINGS)
    last = [score(database, SETTINGS, prices, ROUTERS, batch_id, first) for first in (9, 1, 5)]
    assert last == [False, False, True]
    assert {row.state for row in rows_of(database, batch_id)} == {RequestState.SCORED}
    assert not batch_of(database, batch_id).unscored


def test_scores_are_those_of_the_router_and_the_prices(database: Database) -> None:
    batch_id = ingested_batch(database, 4, SETTINGS)
    floor = batch_of(database, batch_id).floor_nano
    score(database, SETTINGS, price_book(SETTINGS), ROUTERS, batch_id, 1)
    for row in rows_of(database, batch_id):
        u = RandomRouter().win_rates([f"What is {row.line} times 7?"], "strong", "weak")[0]
        assert row.expected_cost_nano
        assert row.quality
        assert row.ratio is not None
        assert row.quality == pytest.approx([0.5, 0.5 + u / 2])
        assert row.win_rate == row.quality[1]
        assert row.floor_nano == row.expected_cost_nano[0]
        assert row.ratio == pytest.approx(u / (row.expected_cost_nano[1] - row.expected_cost_nano[0]) * 1e9)
    assert batch_of(database, batch_id).floor_nano == floor


def test_scoring_twice_changes_nothing_and_announces_the_plan_again(database: Database) -> None:
    batch_id = ingested_batch(database, 3, SETTINGS)
    score(database, SETTINGS, price_book(SETTINGS), ROUTERS, batch_id, 1)
    before = [(row.ratio, row.quality) for row in rows_of(database, batch_id)]
    assert score(database, SETTINGS, price_book(SETTINGS), FailingRouter(), batch_id, 1)
    assert [(row.ratio, row.quality) for row in rows_of(database, batch_id)] == before
    assert attempts(database, batch_id) == [1]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [({"mode": "threshold", "threshold": 0.5}, "win_rate"), ({"mode": "share", "strong_share": 0.5}, "gain")],
)
def test_the_ratio_is_what_the_mode_ranks_by(database: Database, mode: dict[str, Any], expected: str) -> None:
    batch_id = ingested_batch(database, 4, SETTINGS, options=mode)
    score(database, SETTINGS, price_book(SETTINGS), ROUTERS, batch_id, 1)
    for row in rows_of(database, batch_id):
        u = RandomRouter().win_rates([f"What is {row.line} times 7?"], "strong", "weak")[0]
        assert row.ratio == pytest.approx(u)  # of the random router, gain and published win rate are the same number
        assert row.win_rate == pytest.approx(u if expected == "win_rate" else 0.5 + u / 2)


def test_what_is_pinned_or_too_dear_for_its_line_is_not_for_the_plan(database: Database) -> None:
    pins: list[dict[str, Any]] = [
        {"model": "strong"},
        {"model": "weak"},
        {"max_cost_usd": "0.0001"},
        {"max_cost_usd": 1},
    ]
    batch_id = ingested_batch(database, [chat_line(str(n), routing=pin) for n, pin in enumerate(pins)], SETTINGS)
    score(database, SETTINGS, price_book(SETTINGS), ROUTERS, batch_id, 1)
    rows = rows_of(database, batch_id)
    assert [row.ratio for row in rows[:3]] == [INF, -INF, -INF]
    assert rows[3].ratio is not None
    assert 0 < rows[3].ratio < INF
    assert rows[0].expected_cost_nano
    assert rows[0].floor_nano == rows[0].expected_cost_nano[1]


def test_a_single_candidate_needs_no_router(database: Database) -> None:
    settings = make_settings(routing={"candidates": ["weak"]})
    batch_id = ingested_batch(database, 2, settings, candidates=["weak"])
    assert score(database, settings, price_book(settings), FailingRouter(), batch_id, 1)
    assert [(row.ratio, row.win_rate, row.quality) for row in rows_of(database, batch_id)] == [(-INF, None, [0.5])] * 2
    assert not batch_of(database, batch_id).unscored


def test_a_router_may_fail_and_be_asked_again(database: Database) -> None:
    batch_id = ingested_batch(database, 3, SETTINGS)
    router = FailingRouter(failures=1)
    with pytest.raises(RuntimeError):
        score(database, SETTINGS, price_book(SETTINGS), router, batch_id, 1)
    assert score(database, SETTINGS, price_book(SETTINGS), router, batch_id, 1)
    assert attempts(database, batch_id) == [2]
    assert all(row.win_rate is not None for row in rows_of(database, batch_id))


@pytest.mark.parametrize("mode", ["plan", "share", "threshold"])
def test_a_range_whose_router_keeps_failing_goes_on_unscored(database: Database, mode: str) -> None:
    batch_id = ingested_batch(database, 3, SETTINGS, options={"mode": mode})
    router = FailingRouter()
    for _ in range(2):
        with pytest.raises(RuntimeError):
            score(database, SETTINGS, price_book(SETTINGS), router, batch_id, 1)
    assert score(database, SETTINGS, price_book(SETTINGS), router, batch_id, 1)
    rows = rows_of(database, batch_id)
    batch = batch_of(database, batch_id)
    assert batch.unscored
    assert batch.unscored_reason == "The router 'random' failed (RuntimeError); the score worker's log says more."
    assert {(row.state, row.win_rate) for row in rows} == {(RequestState.SCORED, None)}
    if mode == "plan":  # cheapest-first
        cost = [row.expected_cost_nano[1] - row.expected_cost_nano[0] for row in rows if row.expected_cost_nano]
        assert np.argsort(cost).tolist() == np.argsort([-(row.ratio or 0) for row in rows]).tolist()
    if mode == "threshold":
        assert {row.ratio for row in rows} == {-INF}


def test_attempts_that_killed_their_process_count(database: Database) -> None:
    batch_id = ingested_batch(database, 3, SETTINGS)
    with database.transaction() as session:
        session.execute(text("update score_ranges set attempts = 3"))
    router = FailingRouter(failures=0)
    assert score(database, SETTINGS, price_book(SETTINGS), router, batch_id, 1)
    assert router.calls == 0
    batch = batch_of(database, batch_id)
    assert (batch.unscored, batch.unscored_reason) == (True, "The router 'random' ended the process that ran it.")


def test_an_unknown_router_ends_as_unscored(database: Database) -> None:
    settings = make_settings(score={"max_attempts": 1})
    batch_id = ingested_batch(database, 2, settings, router="oracle")
    assert score(database, settings, price_book(settings), Routers(settings), batch_id, 1)
    batch = batch_of(database, batch_id)
    assert batch.unscored
    assert (batch.unscored_reason or "").startswith("There is no router 'oracle'.")


def test_the_first_reason_of_an_unscored_batch_stays_and_holds_no_key(database: Database) -> None:
    settings = make_settings(score={"range_lines": 2, "max_attempts": 1})
    batch_id = ingested_batch(database, 4, settings)
    for first, said in ((1, "the model 'x' is not rated; sk-abcdefghijkl"), (3, "another")):
        score(database, settings, price_book(settings), FailingRouter(error=ScoringError(said)), batch_id, first)
    assert batch_of(database, batch_id).unscored_reason == "the model 'x' is not rated; sk-***"


def test_a_range_waits_without_an_attempt_while_a_model_is_not_configured(database: Database) -> None:
    batch_id = ingested_batch(database, 3, SETTINGS)
    without = make_settings(models={"strong": STRONG}, routing={"candidates": ["strong"]})
    assert not score(database, without, price_book(without), ROUTERS, batch_id, 1)
    assert batch_of(database, batch_id).paused == "model_removed"
    assert attempts(database, batch_id) == [0]
    sweep(database, SETTINGS, FakePublisher())
    assert batch_of(database, batch_id).paused is None
    assert score(database, SETTINGS, price_book(SETTINGS), ROUTERS, batch_id, 1)
    assert attempts(database, batch_id) == [1]


def test_a_batch_that_is_not_in_progress_is_left_alone(database: Database) -> None:
    batch_id = ingested_batch(database, 3, SETTINGS)
    with database.transaction() as session:
        session.execute(text("update batches set state = 'cancelling', cancelling_at = now()"))
    assert not score(database, SETTINGS, price_book(SETTINGS), ROUTERS, batch_id, 1)
    assert not score(database, SETTINGS, price_book(SETTINGS), ROUTERS, "batch_unknown", 1)
    assert {row.state for row in rows_of(database, batch_id)} == {RequestState.QUEUED}
    assert attempts(database, batch_id) == [0]


def test_ranges_scored_at_the_same_time_end_in_one_plan_at_least(database: Database) -> None:
    batch_id = ingested_batch(database, 16, SETTINGS)
    outcomes: list[bool] = []

    def run(first: int) -> None:
        outcomes.append(score(database, SETTINGS, price_book(SETTINGS), ROUTERS, batch_id, first))

    threads = [threading.Thread(target=run, args=(first,)) for first in (1, 5, 9, 13, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert any(outcomes)
    assert {row.state for row in rows_of(database, batch_id)} == {RequestState.SCORED}
