"""Fakes that stand in for what touches the world."""

from __future__ import annotations

from routing_service.events import Event


class FakePublisher:
    """A Publisher that remembers what was announced."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def publish(self, event: Event) -> None:
        self.events.append(event)
