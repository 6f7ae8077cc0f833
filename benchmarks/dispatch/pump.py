"""A dispatch process of `benchmarks.dispatch`: a worker's own pump, without the Celery around it.

`python -m benchmarks.dispatch.pump DATABASE_URL BROKER_URL BASE_URL IN_FLIGHT`. "ready" is printed when it can start;
then every line `{"batch": id}` is answered by its CPU seconds and, by whoever settled the last request, the time of
that (on the machine's monotonic clock).
"""

from __future__ import annotations

import json
import sys
import time

from benchmarks.dispatch.clients import CAP
from routing_service.settings import Settings
from tests.support.factories import STRONG, WEAK, make_settings
from tests.support.fakes import FakePublisher
from workers.context import Context


class Ends(FakePublisher):
    """Notes when a batch was ready to be finished. Its new cuts, which score workers make, are left out."""

    ended_s: float | None = None

    def finish(self, batch_id: str) -> None:
        self.ended_s = self.ended_s or time.monotonic()


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
    context = Context()
    context.settings = settings_for(database_url, broker_url, base_url, in_flight)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while line := sys.stdin.readline():
        json.loads(line)
        context.publisher = ends = Ends()
        cpu = time.process_time()
        context.pump()
        while ends.ended_s is None and ("dispatch",) in ends.events:  # a stretch was over before the batch was
            ends.events.clear()
            context.pump()
        found = {"ended_s": ends.ended_s, "cpu_seconds": time.process_time() - cpu}
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
