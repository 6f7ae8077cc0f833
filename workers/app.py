"""The Celery application: `celery --app workers.app worker --queues ...`.

Messages are wake-ups that carry ids. They are acknowledged late and may come twice; leases and states in Postgres
decide what is done, so the broker's visibility timeout is not relied on and no result is kept.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from celery import Celery
from celery.signals import worker_init, worker_shutting_down

from routing_service.errors import ConfigurationError
from routing_service.settings import Settings, get_settings
from workers.shutdown import EndAfterFailure, stopping

VISIBLE_S = 3600  # after which a message that nobody acknowledged is delivered again
COLLECT_S = 60.0  # between looks for replies of a judge


def configuration(settings: Settings) -> dict[str, Any]:
    """Celery's settings. Names as in its documentation."""
    return {
        "broker_url": settings.broker_url.get_secret_value(),
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # A send must not hang when the broker is away: the sweep announces again.
        "broker_transport_options": {
            "visibility_timeout": VISIBLE_S,
            "socket_connect_timeout": 2,
            "socket_timeout": 10,
            "retry_on_timeout": True,
        },
        "task_publish_retry_policy": {"max_retries": 1, "interval_start": 0, "interval_max": 0.2},
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_send_task_events": True,
        "task_send_sent_event": True,
        "task_default_queue": "default",
        "task_routes": {
            "routebatch.ingest": {"queue": "ingest"},
            "routebatch.score": {"queue": "score"},
            "routebatch.plan": {"queue": "score"},
            "routebatch.dispatch": {"queue": "dispatch"},
            "routebatch.fit_lengths": {"queue": "train"},
            "routebatch.refit": {"queue": "train"},
            "routebatch.refit_if_due": {"queue": "train"},
            "routebatch.collect_judgements": {"queue": "train"},
        },
        "beat_schedule": {
            "sweep": {
                "task": "routebatch.sweep",
                "schedule": settings.sweep.interval_s,
                # A sweep that waited for longer than an interval is superseded by the next.
                "options": {"expires": max(1.0, settings.sweep.interval_s)},
            },
            "fit_lengths": {
                "task": "routebatch.fit_lengths",
                "schedule": settings.score.fit_lengths_s,
                "options": {"expires": max(1.0, settings.score.fit_lengths_s)},
            },
            "collect_judgements": {
                "task": "routebatch.collect_judgements",
                "schedule": COLLECT_S,
                "options": {"expires": COLLECT_S},
            },
            **_refits(settings),
        },
        "timezone": "UTC",
    }


def _refits(settings: Settings) -> dict[str, Any]:
    """By the clock, and looks whether one is due. A message that waits until the next one, or is delivered again after
    the visibility timeout, is of no use any more: it expires."""
    from celery.schedules import ParseException, crontab

    learning = settings.learning
    look = {
        "task": "routebatch.refit_if_due",
        "schedule": learning.refit_check_s,
        "options": {"expires": max(1.0, min(learning.refit_check_s, VISIBLE_S / 2))},
    }
    if not learning.refit:
        return {"refit_if_due": look}
    try:
        schedule = crontab.from_string(learning.refit)
    except (ParseException, ValueError) as error:
        raise ConfigurationError(f"learning.refit: {learning.refit!r} is no crontab line: {error}") from None
    by_clock = {"task": "routebatch.refit", "schedule": schedule, "options": {"expires": VISIBLE_S / 2}}
    return {"refit_if_due": look, "refit": by_clock}


app = Celery("routebatch", include=["workers.tasks"])
app.conf.update(configuration(get_settings()))
app.steps["worker"].add(EndAfterFailure)


@worker_init.connect
def _check_prices(**_: Any) -> None:
    """A model without a price is named when the worker starts, not when money is to be reserved."""
    from routing_service.money.pricing import price_book

    try:
        price_book(get_settings())
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(1) from None


@worker_init.connect
def _share_the_cores(sender: Any, **_: Any) -> None:
    """Children share the machine's cores: torch, loaded after the fork, starts so many threads as are one's part."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // sender.concurrency)))


@worker_shutting_down.connect
def _tell_the_children(**_: Any) -> None:
    """SIGTERM reached the worker: pumps in its pool stop claiming and settle what is in flight."""
    stopping.set()
