"""Output lengths on a real database: learned from settled answers, then what the next batches are expected to cost."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from sqlalchemy import select, text

from cli.main import main
from routing_service.batches.lengths import LengthModels, fit_lengths, with_learned_priors
from routing_service.batches.score import score
from routing_service.db import Database, try_lock
from routing_service.lengths import LEAST_ROWS, LengthModel, prompt_features
from routing_service.models import FittedLengths, Request
from routing_service.pricing import price_book
from routing_service.routers import Routers
from tests.factories import STRONG, WEAK, chat_line, ingested_batch, make_settings
from tests.planned import Planned, make_planned_batch
from tests.reading import batch_of

SETTINGS = make_settings(score={"range_lines": 8})
ROUTERS = Routers(SETTINGS)
PRICES = price_book(SETTINGS)


def question(n: int) -> str:
    """Every other one asks for a long answer."""
    return f"Is {n} even?" if n % 2 else f"List {n} reasons, each with an example, why item {n} matters."


def length(n: int, model: str = "weak") -> int:
    noise = np.random.default_rng([n, model == "strong"]).lognormal(0, 0.3)
    return max(1, int((5 if n % 2 else 80) * noise * (2 if model == "strong" else 1)))


def answer(
    database: Database,
    lines: Sequence[int],
    model: str = "weak",
    tokens: Callable[[int], int | None] = length,
    choices: int = 1,
) -> None:
    """Settled answers of the model to the questions of these numbers."""
    with database.transaction() as session:
        batch_id = make_planned_batch(session, [Planned(prompt=question(n)) for n in lines])
        session.flush()
        values: dict[str, Any] = {"id": batch_id, "model": model, "upstream": f"sandbox-{model}", "choices": choices}
        session.execute(
            text(
                "update requests set state = 'succeeded', finished_at = now(), response = '{}', choices = :choices"
                " where batch_id = :id"
            ),
            values,
        )
        session.execute(
            text(
                "insert into attempts (batch_id, line, number, model, upstream_model, input_price, cached_input_price,"
                " output_price, reserved_nano, state, ended_at, output_tokens) select :id, n, 1, :model, :upstream, 0,"
                " 0, 0, 0, 'succeeded', now(), t from unnest(cast(:tokens as int[])) with ordinality as x(t, n)"
            ),
            values | {"tokens": [tokens(n) for n in lines]},
        )


def fits(database: Database) -> dict[str, FittedLengths]:
    with database.transaction() as session:
        return {row.model: row for row in session.scalars(select(FittedLengths))}


def scored(database: Database, lines: list[Any], **changes: Any) -> tuple[str, Sequence[Request]]:
    """A batch of these lines, scored, with its rows."""
    batch_id = ingested_batch(database, lines, SETTINGS, **changes)
    lengths = LengthModels()
    for first in range(1, len(lines) + 1, 8):
        score(database, SETTINGS, ROUTERS, batch_id, first, lengths)
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


def test_a_model_learns_from_its_own_answers_only_and_a_renamed_one_starts_anew(database: Database) -> None:
    answer(database, range(500), tokens=lambda _: 5)
    answer(database, range(499), "strong", tokens=lambda _: 500)
    assert fit_lengths(database, SETTINGS) == ["weak"]
    assert fits(database)["weak"].metrics["mean_tokens"] == 5
    renamed = make_settings(models={"strong": STRONG, "weak": WEAK | {"name": "another"}})
    with database.transaction() as session:
        assert list(LengthModels().current(session, SETTINGS)) == ["weak"]
        assert not LengthModels().current(session, renamed)
        assert with_learned_priors(session, SETTINGS).models["weak"].expected_output_tokens == 5
        assert with_learned_priors(session, renamed) == renamed
    assert fit_lengths(database, renamed) == []


def test_a_fit_is_replaced_when_half_as_many_answers_are_new_and_read_once(database: Database) -> None:
    answer(database, range(600))
    lengths, seen = LengthModels(), []
    for new in (0, 299, 1):
        if new:
            answer(database, range(new), tokens=lambda n: 3 * length(n))
        fitted = fit_lengths(database, SETTINGS)
        with database.transaction() as session:
            seen.append(lengths.current(session, SETTINGS)["weak"])
            assert lengths.current(session, SETTINGS)["weak"] is seen[-1]
        assert bool(fitted) == (new != 299)
    assert seen[0] is seen[1] is not seen[2]
    assert seen[2].metrics["rows"] == 900
    assert len(fits(database)) == 1


def test_tokens_are_those_of_one_choice(database: Database) -> None:
    answer(database, range(500), tokens=lambda _: 60, choices=4)
    fit_lengths(database, SETTINGS)
    assert fits(database)["weak"].metrics["mean_tokens"] == 15
    body = chat_line()["body"] | {"n": 3}
    _, rows = scored(database, [chat_line("a") | {"body": body}])
    assert (rows[0].expected_cost_nano or [])[0] == expected(rows[0], "weak", 15)


def test_a_fit_that_fails_is_logged_and_the_last_one_stays(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    answer(database, range(500))
    fit_lengths(database, SETTINGS)
    before = fits(database)["weak"]
    answer(database, range(300))
    answer(database, range(500), "strong")
    with database.transaction() as session:
        session.execute(
            text(
                "update requests set body = '{' where (batch_id, line) in (select batch_id, line from"
                " attempts where model = 'weak' order by id desc limit 1)"
            )
        )
    with caplog.at_level(logging.ERROR):
        assert fit_lengths(database, SETTINGS) == ["strong"]
    assert "model weak cannot be fitted" in caplog.text
    assert fits(database)["weak"].id == before.id


def test_only_one_fits_at_a_time(database: Database) -> None:
    answer(database, range(500))
    with database.transaction() as session:
        assert try_lock(session, "fit_lengths")
        assert fit_lengths(database, SETTINGS) == []
    assert fit_lengths(database, SETTINGS) == ["weak"]


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
    score(database, without, ROUTERS, batch_id, 1)
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
    score(database, SETTINGS, ROUTERS, batch_id, 1)
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


def test_the_report_says_how_good_the_predictions_are(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUTEBATCH_DATABASE_URL", database_url)
    empty = CliRunner().invoke(main, ["report", "lengths"])
    assert (empty.exit_code, json.loads(CliRunner().invoke(main, ["report", "lengths", "--json"]).stdout)) == (0, [])
    assert f"{LEAST_ROWS} settled answers" in empty.stdout
    answer(database, range(600))
    fit_lengths(database, SETTINGS)
    (row,) = json.loads(CliRunner().invoke(main, ["report", "lengths", "--json"]).stdout)
    assert (row["model"], row["upstream_model"], row["rows"]) == ("weak", "sandbox-weak", 600)
    assert row["r2"] > 0.8
    assert row["median_error"] < 0.4 < row["median_error_of_constant"]
    assert row["coverage"] == pytest.approx(0.9, abs=0.05)
    table = CliRunner().invoke(main, ["report", "lengths"]).stdout
    assert "sandbox-weak" in table
    assert f"{100 * row['median_error']:.1f} %" in table
