"""Output lengths are learned from settled answers, a model at a time, on a real database."""

from __future__ import annotations

import json
import logging

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from cli.main import main
from deploy.processes import WORKERS
from routing_service.db import Database, try_lock
from routing_service.scoring.length_model import LEAST_ROWS
from routing_service.scoring.lengths import LengthModels, fit_lengths, with_learned_priors
from tests.support.factories import STRONG, WEAK, make_settings
from tests.support.settled import answer, fits, length
from workers.app import configuration
from workers.tasks import fit_lengths as fit_lengths_task

SETTINGS = make_settings()


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


def test_a_look_is_scheduled_and_some_worker_takes_it() -> None:
    actual = configuration(make_settings(score={"fit_lengths_s": 30}))
    entry = actual["beat_schedule"]["fit_lengths"]
    assert (entry["schedule"], entry["task"]) == (30, fit_lengths_task.name)
    queue = actual["task_routes"][entry["task"]]["queue"]
    assert any(queue in worker.argv[worker.argv.index("--queues") + 1].split(",") for worker in WORKERS)


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
    assert row["coverage"] == pytest.approx(0.92, abs=0.08)
    table = CliRunner().invoke(main, ["report", "lengths"]).stdout
    assert "sandbox-weak" in table
    assert f"{100 * row['median_error']:.1f} %" in table
