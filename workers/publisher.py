"""The Publisher of production: events become Celery messages that carry nothing but ids."""

from __future__ import annotations

import logging
from dataclasses import astuple

from celery import Celery
from kombu.exceptions import OperationalError

from routing_service.events import (
    DispatchDue,
    Event,
    FinishDue,
    FitLengthsDue,
    IngestDue,
    PlanDue,
    ScoreDue,
    SweepDue,
)

log = logging.getLogger(__name__)

TASKS: dict[type[Event], str] = {
    IngestDue: "routebatch.ingest",
    ScoreDue: "routebatch.score",
    PlanDue: "routebatch.plan",
    DispatchDue: "routebatch.dispatch",
    FinishDue: "routebatch.finish",
    SweepDue: "routebatch.sweep",
    FitLengthsDue: "routebatch.fit_lengths",
}
# A doorbell that nobody heard for a minute is stale: pumps were busy, and the sweep rings again where need be.
EXPIRES_S: dict[type[Event], float] = {DispatchDue: 60}


class CeleryPublisher:
    """Sends the message of an event. A broker that is away is logged and left to the sweep."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def publish(self, event: Event) -> None:
        try:
            self._app.send_task(TASKS[type(event)], args=astuple(event), expires=EXPIRES_S.get(type(event)))
        except (OperationalError, OSError) as error:
            log.warning("%s was not announced (%s); the sweep will", event, type(error).__name__)
