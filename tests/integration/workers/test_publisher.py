"""What crosses the broker: ids only, as JSON, to the right queue; and a broker that is away holds nothing up."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import redis
from celery import Celery

from deploy.servers import run_valkey
from routing_service.events import DispatchDue, Event, FinishDue, IngestDue, PlanDue, ScoreDue
from tests.support.factories import make_settings
from workers.app import app, configuration
from workers.publisher import TASKS, CeleryPublisher


@pytest.fixture(scope="module")
def broker_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_valkey(tmp_path_factory.mktemp("valkey")) as url:
        yield url


def _app(broker_url: str) -> Celery:
    app = Celery("test", set_as_current=False)
    app.conf.update(configuration(make_settings(broker_url=broker_url)))
    return app


def _messages(broker_url: str, queue: str) -> list[dict[str, Any]]:
    with redis.Redis.from_url(broker_url.replace("redis+socket://", "unix://").partition("?")[0]) as broker:
        raw = broker.lrange(queue, 0, -1)
        broker.delete(queue)
    assert isinstance(raw, list)
    return [json.loads(message) for message in raw]


def test_messages_carry_ids_only_and_go_to_their_queues(broker_url: str) -> None:
    with _app(broker_url) as app:
        publisher = CeleryPublisher(app)
        publisher.publish(IngestDue("batch_1"))
        publisher.publish(ScoreDue("batch_1", 1025))
        publisher.publish(PlanDue("batch_1"))
        publisher.publish(DispatchDue())
        publisher.publish(FinishDue("batch_1"))
    actual = {
        queue: [json.loads(base64.b64decode(m["body"]))[0] for m in _messages(broker_url, queue)]
        for queue in ("ingest", "score", "dispatch", "default")
    }
    assert actual["ingest"] == [["batch_1"]]
    assert sorted(actual["score"], key=len) == [["batch_1"], ["batch_1", 1025]]
    assert actual["dispatch"] == [[]]
    assert actual["default"] == [["batch_1"]]


def test_every_event_is_the_message_of_a_task() -> None:
    assert set(TASKS) == set(get_args(Event))
    app.loader.import_default_modules()
    assert set(TASKS.values()) <= set(app.tasks)


def test_a_broker_that_is_away_is_left_to_the_sweep(tmp_path: Path) -> None:
    started = time.monotonic()
    with _app(f"redis+socket://{tmp_path}/nobody.sock") as app:
        CeleryPublisher(app).publish(IngestDue("batch_1"))
    assert time.monotonic() - started < 10
