"""Comparisons in the database for tests of re-fits: questions on rings are hard for the weak model, on colours not."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from sqlalchemy import func, insert, select, text
from sqlalchemy.orm import Session

from routing_service.db import Database
from routing_service.models import Comparison, Evaluation, Promotion, Refit, RefitTrigger, RouterVersion
from routing_service.models.base import ComparisonSource
from routing_service.router_versions.artifact_store import ArtifactStore
from routing_service.routers import registry
from routing_service.settings import Settings
from tests.support.factories import make_settings
from tests.support.routers.labelled import sums
from tests.support.routers.topics_fake import CLASSES, PLACES
from training.fit import methods
from training.refit.refit import Refitted, refit

FIRST = datetime(2026, 1, 1, tzinfo=UTC)


def learning_settings(directory: Path, router: str = "random", **learning: Any) -> Settings:
    """Settings with a store of artifacts; the random router serves, and fits take no time, unless said otherwise."""
    return make_settings(
        routing={"candidates": ["weak", "strong"], "router": router},
        artifact_url=str(directory / "store"),
        artifact_cache=str(directory / "cache"),
        learning={"methods": ["topics"]} | learning,
    )


def compare(database: Database, count: int = 400, first: int = 0, *, flipped: bool = False, **columns: Any) -> None:
    """Add comparisons of strong with weak, a prompt an hour; `flipped`: the labels are the wrong way round."""
    labels = sums(first + count)
    rows = []
    for number in range(first, first + count):
        gain = float(labels.gain[number])
        values = {
            "digest": sha256(f"{number} {flipped}".encode()).digest(),
            "source": ComparisonSource.GOLDEN,
            "prompt": labels.prompts[number],
            "model_a": "strong",
            "model_b": "sandbox-weak",
            "outcome": (1 - gain if flipped else 1 + gain) / 2,
            "created_at": FIRST + timedelta(hours=number),
        }
        rows.append(values | columns)
    with database.transaction() as session:
        session.execute(insert(Comparison), rows)


def run(
    database: Database, settings: Settings, trigger: RefitTrigger = RefitTrigger.SCHEDULE, **options: Any
) -> Refitted:
    """A re-fit that nothing stands in the way of."""
    record = refit(database, settings, trigger=trigger, **options)
    assert record is not None
    return record


def kept(database: Database) -> dict[str, int]:
    """How many rows of everything that a re-fit may leave there are."""
    tables = {"versions": RouterVersion, "evaluations": Evaluation, "promotions": Promotion, "refits": Refit}
    with database.transaction() as session:
        return {name: session.scalar(select(func.count()).select_from(table)) or 0 for name, table in tables.items()}


def hang(database_url: str, directory: str) -> None:
    """A re-fit that says when its artifacts are stored, and then waits to be killed."""
    for known, added in ((registry.METHODS, CLASSES), (methods.METHODS, PLACES)):
        known.update(added)
    put = ArtifactStore.put

    def stop(store: ArtifactStore, artifact: Path) -> str:
        stored = put(store, artifact)
        print("put", flush=True)
        sys.stdin.readline()
        return stored

    setattr(ArtifactStore, "put", stop)  # noqa: B010
    run(Database(database_url), learning_settings(Path(directory)))


def wait_for_locks(session: Session) -> None:
    """Until the server has noticed that who held an advisory lock is gone: it then gets it itself, for a moment."""
    session.execute(text("select pg_advisory_lock(hashtextextended('refit', 0))"))
    session.execute(text("select pg_advisory_unlock(hashtextextended('refit', 0))"))
