"""What happens to every request and response, whatever the route: an ASGI middleware.

- Every response carries an `x-request-id`; an error that nobody expected is logged under it and answered with a 500
  that tells nothing of the inside.
- A request that is answered before its body was read (401, 404, 413) has the rest of its body read and dropped first.
  Without that the connection is reset, and the client, still sending, never sees the answer.
"""

from __future__ import annotations

import asyncio
import logging
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from routing_service.api.replies import error_reply

logger = logging.getLogger(__name__)
DRAIN_SECONDS = 60


class Wire:
    """The middleware. `drain_bytes`: how much of an unread body is read and dropped at most."""

    def __init__(self, app: ASGIApp, drain_bytes: int) -> None:
        self.app = app
        self.drain_bytes = drain_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self.drain_bytes)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            logger.info("%s: the client went away", exchange.request_id)
        except Exception:
            logger.exception("%s: %s %r failed", exchange.request_id, scope["method"], scope["path"])
            if exchange.started:
                raise  # the connection is cut: the client sees that the body is not whole
            reply = error_reply(500, "The server had an error. Try again.", type="server_error")
            await reply(scope, exchange.receive, exchange.send)


class _Exchange:
    """One request and its response."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, drain_bytes: int) -> None:
        headers = Headers(scope=scope)
        self.request_id = f"req_{uuid.uuid4().hex}"
        self.started = False
        self._receive = receive
        self._send = send
        self._drain_bytes = drain_bytes
        self._touched = False
        self._unread = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        self._waits = "expect" in headers  # it sends its body only when asked to

    async def receive(self) -> Message:
        self._touched = True
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._unread = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            if self._unread and not (self._waits and not self._touched):
                await self._drain()
            MutableHeaders(scope=message)["x-request-id"] = self.request_id
        await self._send(message)

    async def _drain(self) -> None:
        dropped = 0
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while self._unread and dropped <= self._drain_bytes:
                    message = await self.receive()
                    dropped += len(message.get("body", b""))
        except TimeoutError:
            self._unread = False
