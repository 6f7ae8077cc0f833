"""The workers' part without a broker: what was announced is handled in turn, until nothing is left to do."""

from __future__ import annotations

from routing_service.db import Database
from routing_service.events import DispatchDue
from routing_service.service import Service, handle
from routing_service.settings import Settings
from tests.support.factories import without_broker
from tests.support.fakes import FakePublisher


def work(database: Database, settings: Settings, publisher: FakePublisher) -> None:
    """Handle what was announced, and what follows from it. Of several doorbells the last one is answered."""
    service = Service(database, without_broker(settings), publisher)
    while publisher.events:
        event = publisher.events.pop(0)
        if event != DispatchDue() or event not in publisher.events:
            handle(service, event)
    service.close()
