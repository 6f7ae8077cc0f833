"""A dispatch process of `benchmarks.dispatch`: a worker's own service, without the Celery around it.

`python -m benchmarks.dispatch.pump DATABASE_URL BROKER_URL BASE_URL IN_FLIGHT`. "ready" is printed when it can start;
then every line `{"batch": id}` is answered by its CPU seconds and, by whoever settled the last request, the time of
that (on the machine's monotonic clock).
"""

from __future__ import annotations

import json
import sys
import time

from benchmarks.dispatch.clients import CAP
from routing_service.events import DispatchDue, Event, FinishDue
from routing_service.service import Service, handle
from routing_service.settings import Settings
from tests.support.factories import STRONG, WEAK, make_settings


class Ends:
    """Notes when a batch was ready to be finished, and whether the doorbell was rung again. New cuts are left out: they
    are the score workers' work."""

    def __init__(self) -> None:
        self.ended_s: float | None = None
        self.rung = False

    def publish(self, event: Event) -> None:
        if isinstance(event, FinishDue):
            self.ended_s = self.ended_s or time.monotonic()
        self.rung = self.rung or event == DispatchDue()


def settings_for(database_url: str, broker_url: str, base_url: str, in_flight: int) -> Settings:
    """What ships, with as many calls in flight as the peers have."""
    model = {"base_url": base_url, "max_output_tokens": CAP, "max_concurrency": in_flight}
    return make_settings(
        models={"strong": STRONG | model, "weak": WEAK | model},
        dispatch={"max_in_flight": in_flight, "idle_s": 0.2},
        database_url=database_url,
        broker_url=broker_url,
    )


def main(database_url: str, broker_url: str, base_url: str, in_flight: int) -> None:
    ends = Ends()
    service = Service.of(settings_for(database_url, broker_url, base_url, in_flight), ends)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while line := sys.stdin.readline():
        json.loads(line)
        ends.ended_s, ends.rung = None, True
        cpu = time.process_time()
        while ends.ended_s is None and ends.rung:  # again where a stretch was over before the batch was
            ends.rung = False
            handle(service, DispatchDue())
        answer = {"ended_s": ends.ended_s, "cpu_seconds": time.process_time() - cpu}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
