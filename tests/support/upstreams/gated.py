"""An upstream that holds every call back until it is told to answer: what is in flight stays there for as long as a
test wants."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.upstreams.raw import http

PATIENCE_S = 30
ANSWER = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "4"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8},
}


class Gate:
    """`prompts`: what was asked, in the order in which it came. `fails`: answer with a 429."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.base_url = ""
        self.prompts: list[str] = []
        self.fails = False
        self._loop = loop
        self._came = threading.Condition()
        self._waiting: deque[asyncio.Event] = deque()
        self._passes = 0.0

    @property
    def calls(self) -> int:
        return len(self.prompts)

    def wait_for(self, calls: int) -> None:
        """Until so many calls have come in all."""
        with self._came:
            assert self._came.wait_for(lambda: self.calls >= calls, PATIENCE_S), f"only {self.calls} calls came"

    def let(self, calls: float = float("inf")) -> None:
        """Answer so many calls: those that wait, the first one first, and then those to come."""
        self._loop.call_soon_threadsafe(self._let, calls)

    async def ask(self, prompt: str) -> None:
        """Come, and wait to be let through."""
        with self._came:
            self.prompts.append(prompt)
            self._came.notify_all()
        turn = asyncio.Event()
        self._waiting.append(turn)
        self._let(0)
        await turn.wait()

    def _let(self, calls: float) -> None:
        self._passes += calls
        while self._waiting and self._passes >= 1:
            self._passes -= 1
            self._waiting.popleft().set()


@contextmanager
def gated_upstream() -> Iterator[Gate]:
    """Whoever still waits when the block ends is let through."""
    loop = asyncio.new_event_loop()
    gate = Gate(loop)
    server = loop.run_until_complete(asyncio.start_server(lambda r, w: _answer(r, w, gate), "127.0.0.1", 0))
    gate.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield gate
    finally:
        gate.let()
        asyncio.run_coroutine_threadsafe(_stop(server), loop).result(PATIENCE_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_S)
        loop.close()


async def _stop(server: asyncio.Server) -> None:
    server.close()
    await server.wait_closed()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: Gate) -> None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = json.loads(await reader.readexactly(int(length.partition(b":")[2])))
        await gate.ask(body["messages"][0]["content"])
        answer = http(json.dumps(ANSWER).encode())
        writer.write(http(b"{}", status=b"429 Too Many Requests") if gate.fails else answer)
        await writer.drain()
    finally:
        writer.close()
