"""What asks for a re-fit: the number of new comparisons, other prompts than before, win rates that do not hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery.schedules import crontab
from sqlalchemy import text

from routing_service.db import Database
from routing_service.errors import ConfigurationError
from routing_service.models import Refit, RefitOutcome, RefitTrigger
from routing_service.routers import registry
from routing_service.service import Service
from tests.support.factories import chat_line, ingested_batch, make_settings
from tests.support.fakes import FakePublisher
from tests.support.routers.topics_fake import CLASSES, PLACES
from tests.support.routers.trained import compare, learning_settings, run
from training.fit import methods
from training.refit.record import only_one
from training.refit.triggers import due
from workers import tasks
from workers.app import configuration

RINGS = "Tell me {} things of ring field ideal field"


@pytest.fixture(autouse=True)
def _fits_that_take_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for known, added in ((registry.METHODS, CLASSES), (methods.METHODS, PLACES)):
        for name, place in added.items():
            monkeypatch.setitem(known, name, place)


def test_a_wanted_number_of_new_comparisons_asks_for_one(database: Database, tmp_path: Path) -> None:
    settings = learning_settings(tmp_path, refit_after=100)
    compare(database, 99)
    assert due(database, settings) is None
    compare(database, 1, 99)
    assert due(database, settings) == (RefitTrigger.COMPARISONS, "100 comparisons are new")
    assert due(database, learning_settings(tmp_path, refit_after=0)) is None
    run(database, settings)
    assert due(database, settings) is None
    compare(database, 100, 100)
    assert due(database, settings) is not None


def test_while_one_runs_and_for_an_hour_after_one_that_broke_nothing_asks(database: Database, tmp_path: Path) -> None:
    settings = learning_settings(tmp_path, refit_after=10)
    compare(database, 20)
    with database.transaction() as session:
        session.add(Refit(trigger=RefitTrigger.MANUAL))
    with only_one(database):
        assert due(database, settings) is None
    assert due(database, settings) is None  # it died a moment ago
    with database.transaction() as session:
        session.execute(text("update refits set started_at = now() - interval '61 minutes'"))
    assert due(database, settings) is not None
    assert run(database, learning_settings(tmp_path, methods=["none"])).outcome is RefitOutcome.FAILED
    assert due(database, settings) is None
    with database.transaction() as session:
        session.execute(text("update refits set ended_at = now() - interval '61 minutes'"))
    assert due(database, settings) is not None


def test_what_a_refit_that_died_was_asked_for_is_asked_for_again(database: Database, tmp_path: Path) -> None:
    settings = learning_settings(tmp_path, refit_after=20)
    compare(database, 20)
    with database.transaction() as session:
        session.add(Refit(trigger=RefitTrigger.COMPARISONS, last_comparison_id=20))  # it had read them
        session.flush()
        session.execute(text("update refits set started_at = now() - interval '61 minutes'"))
    assert due(database, settings) == (RefitTrigger.COMPARISONS, "20 comparisons are new")


def traffic(database: Database, prompts: Iterator[str]) -> None:
    lines = [chat_line(str(number), prompt) for number, prompt in enumerate(prompts)]
    ingested_batch(database, lines, make_settings())


def test_prompts_unlike_the_compared_ones_ask_for_one(database: Database, tmp_path: Path) -> None:
    settings = learning_settings(tmp_path, refit_after=0)
    compare(database, 200)
    traffic(database, (RINGS.format(n) for n in range(150)))
    before = run(database, settings).figures["similarity"]
    assert before > 0.8
    assert due(database, settings) is None
    traffic(database, (f"Où se trouve la gare numéro {n} ?" for n in range(150)))
    asked = due(database, settings)
    assert asked is not None
    assert asked[0] is RefitTrigger.DRIFT
    assert asked[1].startswith(f"the last week's prompts are less like the compared ones: {before:.3f} before, 0.")
    assert due(database, learning_settings(tmp_path, refit_after=0, drift_similarity_drop=0)) is None
    run(database, settings, asked[0], asked=asked[1])
    assert due(database, settings) is None  # it is measured against what is usual now


def test_win_rates_that_do_not_hold_on_new_comparisons_ask_for_one(database: Database, tmp_path: Path) -> None:
    settings = learning_settings(tmp_path, refit_after=0)
    compare(database, 500)
    assert run(database, settings).outcome is RefitOutcome.PROMOTED
    compare(database, 250, 500)
    assert due(database, settings) is None
    compare(database, 400, 750, flipped=True)
    asked = due(database, settings)
    assert asked is not None
    assert asked[1].startswith("win rates are further off on new comparisons: ")
    assert due(database, learning_settings(tmp_path, refit_after=0, drift_calibration_rise=0)) is None


def test_a_random_router_cannot_come_to_know_less(database: Database, tmp_path: Path) -> None:
    settings = learning_settings(tmp_path, refit_after=0)
    compare(database, 600)
    with database.transaction() as session:
        session.execute(text("update comparisons set outcome = 1 - outcome where id <= 480"))
    assert run(database, settings).outcome is RefitOutcome.REFUSED
    compare(database, 250, 600)
    assert due(database, settings) is None


def test_the_tasks_fit_by_the_clock_and_when_it_is_due(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(database, learning_settings(tmp_path, refit_after=400), FakePublisher())
    monkeypatch.setattr(tasks, "service", lambda: service)
    compare(database, 399)
    tasks.refit_if_due()
    assert outcomes(database) == []
    compare(database, 1, 399)
    tasks.refit_if_due()
    tasks.refit_if_due()
    assert outcomes(database) == [("comparisons", "promoted", "400 comparisons are new")]
    tasks.refit()
    assert outcomes(database)[1:] == [("schedule", "unchanged", None)]


def outcomes(database: Database) -> list[Any]:
    with database.transaction() as session:
        rows = session.query(Refit).order_by(Refit.id).all()
        return [(one.trigger, one.outcome, one.figures.get("asked")) for one in rows]


def test_beat_asks_by_a_crontab_line_in_utc_and_looks_every_few_minutes() -> None:
    entries = configuration(make_settings())["beat_schedule"]
    assert entries["refit"]["schedule"] == crontab(minute="0", hour="3")
    assert entries["refit_if_due"]["schedule"] == 600
    off = configuration(make_settings(learning={"refit": ""}))["beat_schedule"]
    assert "refit" not in off
    for wrong in ("99 3 * * *", "0 3 * * someday"):
        with pytest.raises(ConfigurationError, match=r"learning\.refit: '.*' is no crontab line"):
            configuration(make_settings(learning={"refit": wrong}))
    with pytest.raises(ValueError, match="five fields are expected"):
        make_settings(learning={"refit": "daily"})


def test_what_trains_stays_out_of_the_other_workers() -> None:
    routes = configuration(make_settings())["task_routes"]
    assert routes["routebatch.refit"] == routes["routebatch.refit_if_due"] == {"queue": "train"}
