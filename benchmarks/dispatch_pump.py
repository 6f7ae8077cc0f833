"""A dispatch process of `benchmarks.dispatch`: pumps until the batches it is told of are settled.

`python -m benchmarks.dispatch_pump DATABASE_URL BASE_URL IN_FLIGHT`. "ready" is printed when it can start; then every
line `{"batch": id}` is answered by its CPU seconds and, by whoever settled the last request, the time of that (on the
machine's monotonic clock).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from benchmarks.dispatch_clients import CAP
from routing_service.batches.pump import Pump
from routing_service.db import Database
from routing_service.pricing import price_book
from routing_service.settings import Settings
from routing_service.upstream import Upstreams
from tests.factories import STRONG, WEAK, make_settings
from tests.fakes import FakePublisher


class Ends(FakePublisher):
    """Notes when a batch was ready to be finished. Its new cuts, which score workers make, are left out."""

    ended_s: float | None = None

    def finish(self, batch_id: str) -> None:
        self.ended_s = self.ended_s or time.monotonic()


def settings_for(base_url: str, in_flight: int) -> Settings:
    """What ships, with as many calls in flight as the peers have."""
    model = {"base_url": base_url, "max_output_tokens": CAP, "max_concurrency": in_flight}
    return make_settings(
        models={"strong": STRONG | model, "weak": WEAK | model},
        dispatch={"max_in_flight": in_flight, "idle_s": 0.2},
    )


async def main(database_url: str, base_url: str, in_flight: int) -> None:
    settings = settings_for(base_url, in_flight)
    database, prices = Database(database_url), price_book(settings)
    upstreams = Upstreams(settings.models, settings.dispatch.max_response_bytes)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while line := await asyncio.to_thread(sys.stdin.readline):
        json.loads(line)
        ends, cpu = Ends(), time.process_time()
        while ends.ended_s is None:
            ends.events.clear()
            await Pump(database, settings, prices, upstreams, ends).run()
            if ("dispatch",) not in ends.events:  # nothing is left to claim
                break
        found = {"ended_s": ends.ended_s, "cpu_seconds": time.process_time() - cpu}
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()
    await upstreams.close()
    database.dispose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
