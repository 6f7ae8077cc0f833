"""A snapshot of the comparisons in the database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest
from sqlalchemy import event, insert, text

from routing_service.db import Database
from routing_service.models import Comparison
from routing_service.models.base import ComparisonSource
from tests.support.factories import make_key, make_settings, new_batch
from training.data.tables import DataError
from training.refit.snapshot import take_snapshot

SETTINGS = make_settings(learning={"feedback_weight_per_key": 2})


def row(number: int, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "digest": sha256(str(number).encode()).digest(),
        "source": ComparisonSource.GOLDEN,
        "prompt": f"prompt {number}",
        "model_a": "strong",
        "model_b": "weak",
        "outcome": 1.0,
        "batch_id": None,
        "line": None,
        "api_key_id": None,
        "created_at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number),
    }
    return values | changes


def fill(database: Database, *rows: dict[str, Any]) -> None:
    with database.transaction() as session:
        session.execute(insert(Comparison), list(rows))


def test_a_snapshot_knows_models_by_their_keys_when_rows_came_and_which_are_of_live_traffic(database: Database) -> None:
    batch_id = new_batch(database, 3)
    with database.transaction() as session:
        key_id = make_key(session).id
    live = {"batch_id": batch_id, "line": 1}
    vote = {"source": ComparisonSource.FEEDBACK, "api_key_id": key_id}
    fill(
        database,
        row(1, model_a="sandbox-weak", model_b="sandbox-strong", outcome=0.25),
        row(2, **live, source=ComparisonSource.JUDGE),
        *(row(number, **live, **vote) for number in range(3, 7)),
        row(7, model_a="weak", model_b="sandbox-weak"),
        row(8, prompt=" "),
        row(9, weight=1e7),  # alone it would keep all others from being fitted on
        row(10, created_at=datetime.now(UTC) + timedelta(days=1)),
    )
    snapshot = take_snapshot(database, SETTINGS)
    assert snapshot.pair == ("strong", "weak")
    assert snapshot.comparisons.labels().gain.tolist() == [0.5, 1, 1, 1, 1, 1]
    assert snapshot.comparisons.weight.tolist() == [1, 1, 0.5, 0.5, 0.5, 0.5]
    assert snapshot.live.tolist() == [False, True, False, False, False, False]
    assert snapshot.came[0] == row(1)["created_at"].timestamp()
    assert (snapshot.ids, snapshot.bad) == ((1, 9), 2)
    assert snapshot.fingerprint() == take_snapshot(database, SETTINGS).fingerprint()


def test_rows_that_come_meanwhile_are_not_in_it(database: Database) -> None:
    fill(database, *map(row, range(5)))

    added: list[int] = []

    def add(*_: Any) -> None:
        if not added:
            added.append(99)
            other = Database(database.engine.url.render_as_string(hide_password=False))
            fill(other, row(99))
            other.dispose()

    event.listen(database.engine, "after_cursor_execute", add)
    assert len(take_snapshot(database, SETTINGS).comparisons) == 5
    assert added


def test_nothing_to_fit_on_is_said(database: Database) -> None:
    with pytest.raises(DataError, match="holds no comparisons"):
        take_snapshot(database, SETTINGS)
    fill(database, row(1, model_b="a third"))
    with pytest.raises(DataError, match="compares strong with weak"):
        take_snapshot(database, SETTINGS)
    with pytest.raises(DataError, match="needs two candidates"):
        take_snapshot(database, make_settings(routing={"candidates": ["weak"]}))
    with database.transaction() as session:
        assert session.scalar(text("show transaction_isolation")) == "read committed"
