"""What is learned of output lengths decides what the next batches are expected to cost, on a real database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select, text

from routing_service.db import Database
from routing_service.models import FittedLengths, Request, RequestState
from routing_service.money.pricing import cost_nano, price_book
from routing_service.routers.registry import Routers
from routing_service.scoring.length_model import LEAST_ROWS, LengthModel, prompt_features
from routing_service.scoring.lengths import LengthModels, fit_lengths
from routing_service.scoring.score import score
from routing_service.upstream.outcome import Usage
from tests.support.factories import STRONG, WEAK, chat_line, ingested_batch, make_settings, planned_batch
from tests.support.reading import batch_of
from tests.support.settled import answer, fits, length, question
from tests.support.upstreams.replayed import left_of_budget, run_out

SETTINGS = make_settings(score={"range_lines": 8})
ROUTERS = Routers(SETTINGS)
PRICES = price_book(SETTINGS)


def scored(database: Database, lines: list[Any], **changes: Any) -> tuple[str, Sequence[Request]]:
    """A batch of these lines, scored, with its rows."""
    batch_id = ingested_batch(database, lines, SETTINGS, **changes)
    lengths = LengthModels()
    for first in range(1, len(lines) + 1, 8):
        score(database, SETTINGS, price_book(SETTINGS), ROUTERS, batch_id, first, lengths)
    with database.transaction() as session:
        query = select(Request).where(Request.batch_id == batch_id).order_by(Request.line)
        return batch_id, session.scalars(query).all()


def expected(row: Request, model: str, tokens: float) -> int:
    columns = (np.array([row.input_bytes]), np.array([row.output_cap or 10**9]), np.array([row.choices]))
    return int(PRICES.expected_costs(model, SETTINGS.models[model], *columns, np.array([tokens]))[0])


def test_costs_follow_what_settled_answers_had_and_the_floor_follows_the_costs(database: Database) -> None:
    answer(database, range(600))
    answer(database, range(600), "strong", tokens=lambda n: length(n, "strong"))
    assert sorted(fit_lengths(database, SETTINGS)) == ["strong", "weak"]
    numbers = range(1000, 1040)
    capped = chat_line("cap", question(2)) | {
        "body": chat_line(content=question(2))["body"] | {"max_tokens": 3, "n": 2}
    }
    batch_id, rows = scored(database, [*(chat_line(str(n), question(n)) for n in numbers), capped])
    models = {key: LengthModel.from_bytes(fit.data) for key, fit in fits(database).items()}
    raw = prompt_features([question(n) for n in numbers])
    for place, key in enumerate(("weak", "strong")):
        mean = models[key].mean(raw)
        assert mean[1::2] == pytest.approx(5 * (1 + place), rel=0.3)
        assert mean[::2] == pytest.approx(80 * (1 + place), rel=0.3)
        for row, tokens in zip(rows, mean, strict=False):
            assert (row.expected_cost_nano or [])[place] == expected(row, key, tokens)
        assert (rows[-1].expected_cost_nano or [])[place] == expected(rows[-1], key, 3)
    assert [row.floor_nano for row in rows] == [(row.expected_cost_nano or [0])[0] for row in rows]
    assert batch_of(database, batch_id).floor_nano == sum(row.floor_nano for row in rows)


def test_the_prior_counts_until_500_answers_are_settled(database: Database) -> None:
    answer(database, range(LEAST_ROWS - 1))
    answer(database, [7] * 100, tokens=lambda _: None)  # without usage nothing is learned
    assert fit_lengths(database, SETTINGS) == []
    _, rows = scored(database, [chat_line("a", question(1))])
    assert (rows[0].expected_cost_nano or [])[0] == expected(rows[0], "weak", 256)
    answer(database, [7])
    assert fit_lengths(database, SETTINGS) == ["weak"]
    assert fits(database)["weak"].rows == LEAST_ROWS


def test_tokens_are_those_of_one_choice(database: Database) -> None:
    answer(database, range(500), tokens=lambda _: 60, choices=4)
    fit_lengths(database, SETTINGS)
    assert fits(database)["weak"].metrics["mean_tokens"] == 15
    body = chat_line()["body"] | {"n": 3}
    _, rows = scored(database, [chat_line("a") | {"body": body}])
    assert (rows[0].expected_cost_nano or [])[0] == expected(rows[0], "weak", 15)


@pytest.mark.parametrize("damage", ["data = ''", "data = substr(data, 1, 90)"])
def test_a_fit_that_cannot_be_read_leaves_the_prior(
    database: Database, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer(database, range(500))
    fit_lengths(database, SETTINGS)
    with database.transaction() as session:
        session.execute(text(f"update length_models set {damage}"))
    batch_id, rows = scored(database, [chat_line("a")])
    assert (rows[0].expected_cost_nano or [])[0] == expected(rows[0], "weak", 256)
    assert "is not used" in caplog.text
    assert not batch_of(database, batch_id).unscored


def test_a_fit_of_other_features_leaves_the_prior(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """As another version of the service may have stored it."""
    answer(database, range(500))
    fit_lengths(database, SETTINGS)
    with database.transaction() as session:
        (fit,) = session.scalars(select(FittedLengths))
        model = LengthModel.from_bytes(fit.data)
        fewer = replace(model.standard, center=model.standard.center[:, :70].copy())
        fit.data = replace(model, standard=fewer).to_bytes()
    _, rows = scored(database, [chat_line("a")])
    assert (rows[0].expected_cost_nano or [])[0] == expected(rows[0], "weak", 256)
    assert "cannot be predicted" in caplog.text


def test_the_floor_of_a_pinned_line_is_that_of_its_own_model(database: Database) -> None:
    """Also where that is none of the candidates, and where it is no longer configured."""
    settings = make_settings(
        models={"strong": STRONG, "weak": WEAK, "other": WEAK | {"name": "sandbox-other"}, "gone": WEAK},
        score={"range_lines": 8},
    )
    answer(database, range(500), "other", tokens=lambda _: 9)
    answer(database, range(500), "strong", tokens=lambda _: 7)
    fit_lengths(database, settings)
    pins = [None, "strong", "other", "gone"]
    lines = [chat_line(str(n), routing={"model": pin} if pin else {}) for n, pin in enumerate(pins)]
    batch_id = ingested_batch(database, lines, settings)
    without = make_settings(models={k: v for k, v in settings.models.items() if k != "gone"}, score={"range_lines": 8})
    score(database, without, price_book(without), ROUTERS, batch_id, 1)
    with database.transaction() as session:
        rows = session.scalars(select(Request).where(Request.batch_id == batch_id).order_by(Request.line)).all()
    weak, strong = rows[0].expected_cost_nano or (0, 0)
    assert (weak, strong) == (expected(rows[0], "weak", 256), expected(rows[0], "strong", 7))
    assert [row.floor_nano for row in rows] == [weak, strong, expected(rows[0], "weak", 9), weak]
    assert batch_of(database, batch_id).floor_nano == sum(row.floor_nano for row in rows)


def test_a_range_scored_twice_moves_the_floor_once(database: Database) -> None:
    answer(database, range(500))
    batch_id, rows = scored(database, [chat_line(str(n), question(n)) for n in range(20)])
    fit_lengths(database, SETTINGS)
    with database.transaction() as session:
        session.execute(text("update score_ranges set done_at = null where first_line = 1"))
        session.execute(text("update requests set state = 'queued' where batch_id = :b and line <= 4"), {"b": batch_id})
    score(database, SETTINGS, price_book(SETTINGS), ROUTERS, batch_id, 1)
    with database.transaction() as session:
        after = session.scalars(select(Request).where(Request.batch_id == batch_id).order_by(Request.line)).all()
    moved = [new.floor_nano != old.floor_nano for new, old in zip(after, rows, strict=True)]
    assert moved == [True] * 4 + [False] * 16  # what was scored meanwhile by another runner is left to it
    assert batch_of(database, batch_id).floor_nano == sum(row.floor_nano for row in after)


def test_a_file_is_accepted_by_the_average_length_of_settled_answers(database: Database) -> None:
    lines = [chat_line(str(n), question(n)) for n in range(20)]
    before = batch_of(database, ingested_batch(database, lines, SETTINGS)).floor_nano
    answer(database, range(500), tokens=lambda _: 4)
    fit_lengths(database, SETTINGS)
    after = batch_of(database, ingested_batch(database, lines, SETTINGS)).floor_nano
    assert before - after == 20 * 252 * 600  # nano-dollars a token of the weak model


@pytest.mark.parametrize("share", [0.4, 0.7])
def test_after_a_history_a_bad_prior_leaves_no_more_of_a_binding_budget_than_a_worst_case(
    database: Database, share: float
) -> None:
    """Expected are 256 tokens, answers have 20 on average: the prior alone would leave a quarter of it and more."""
    models = {"strong": STRONG | {"max_output_tokens": 256}, "weak": WEAK | {"max_output_tokens": 256}}
    settings = make_settings(models=models, budget={})
    for model in ("weak", "strong"):
        answer(database, range(600), model, tokens=short)
    fit_lengths(database, settings)
    numbers = range(1000, 1500)
    cost = {model: sum(cost_nano(PRICES.price(model, 0), *asked(n)) for n in numbers) for model in ("weak", "strong")}
    budget = int(cost["weak"] + share * (cost["strong"] - cost["weak"]))
    lines = [chat_line(str(n), question(n)) for n in numbers]
    batch_id = planned_batch(database, lines, settings, budget_nano=budget)
    run_out(database, settings, batch_id, lambda ticket: Usage(*asked(numbers[ticket.line - 1])))
    with database.transaction() as session:
        rows = session.scalars(select(Request).where(Request.batch_id == batch_id)).all()
    sizes = (np.array([max(row.input_bytes for row in rows)]), np.array([256]), np.array([1]))
    worst = int(PRICES.worst_cases("strong", settings.models["strong"], *sizes)[0])
    assert {row.state for row in rows} == {RequestState.SUCCEEDED}
    assert batch_of(database, batch_id).floor_nano == 0
    assert {row.model for row in rows} == {"weak", "strong"}
    assert 0 <= left_of_budget(database, batch_id) <= max(0.03 * budget, worst)


def short(n: int) -> int:
    return max(1, int((8 if n % 2 else 32) * np.random.default_rng(n).lognormal(0, 0.3)))


def asked(n: int) -> tuple[int, int]:
    """Tokens of a question and of its answer."""
    return len(question(n)) // 4 + 8, short(n)
