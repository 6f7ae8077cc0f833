"""An upstream as light as can be, for `benchmarks.dispatch`: every chat call is answered after about 50 ms.

`python -m benchmarks.dispatch.upstream MEDIAN_MS` prints its base URL and serves until it is ended. GET /stats says how
many calls were answered, and when the last one was (on the machine's monotonic clock).
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time

from aiohttp import web

SPREAD = 0.25  # standard deviation of the logarithm of the latency, as the sandbox has it
TEXT = "The total is 6 times 7, which makes 42: six boxes with seven pencils each, and none is left over. " * 4
USAGE = {"prompt_tokens": 24, "completion_tokens": 96, "total_tokens": 120}
ANSWER = json.dumps(
    {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "loopback",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
).encode()


class Upstream:
    def __init__(self, median_s: float) -> None:
        self._median_s = median_s
        self._rng = random.Random(1)
        self._answered, self._last_s = 0, 0.0

    async def handle(self, request: web.BaseRequest) -> web.Response:
        if request.method == "GET":
            return web.json_response({"answered": self._answered, "last_s": self._last_s})
        await request.read()
        await asyncio.sleep(self._median_s * self._rng.lognormvariate(0, SPREAD))
        self._answered += 1
        self._last_s = time.monotonic()
        return web.Response(body=ANSWER, content_type="application/json")


async def serve(median_s: float) -> None:
    server = web.Server(Upstream(median_s).handle, access_log=None)
    runner = web.ServerRunner(server)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    sys.stdout.write(f"http://127.0.0.1:{runner.addresses[0][1]}/v1\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1]) / 1000))
