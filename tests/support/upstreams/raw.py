"""An upstream that answers requests with raw bytes, for tests of what a client must endure."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def http(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """A whole HTTP answer, after which the connection ends."""
    head = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), b"Connection: close", *headers]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


@contextmanager
def raw_upstream(*answers: bytes | None, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The base URL of a server that reads each request's head and body and writes the next of `answers`; the last one
    stands for all that follow. None: it says nothing."""
    loop = asyncio.new_event_loop()
    left = deque(answers)

    def following() -> bytes | None:
        return left.popleft() if len(left) > 1 else left[0]

    serving = asyncio.start_server(lambda r, w: _answer(r, w, following), "127.0.0.1", 0, ssl=tls)
    server = loop.run_until_complete(serving)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        asyncio.run_coroutine_threadsafe(_stop(server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _stop(server: asyncio.Server) -> None:
    server.close()
    await server.wait_closed()


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, following: Callable[[], bytes | None]
) -> None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0")
        await reader.readexactly(int(length.partition(b":")[2]))
        answer = following()
        if answer is None:
            await reader.read()  # until the client goes
        else:
            writer.write(answer)
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass  # the client has gone
    finally:
        writer.close()
