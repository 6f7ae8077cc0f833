"""Fakes that stand in for what touches the world."""

from __future__ import annotations


class FakePublisher:
    """A Publisher that remembers what was announced, as tuples (name, *ids)."""

    def __init__(self) -> None:
        self.events: list[tuple[str | int, ...]] = []

    def ingest(self, batch_id: str) -> None:
        self.events.append(("ingest", batch_id))

    def score(self, batch_id: str, first_line: int) -> None:
        self.events.append(("score", batch_id, first_line))

    def plan(self, batch_id: str) -> None:
        self.events.append(("plan", batch_id))

    def dispatch(self) -> None:
        self.events.append(("dispatch",))

    def finish(self, batch_id: str) -> None:
        self.events.append(("finish", batch_id))
