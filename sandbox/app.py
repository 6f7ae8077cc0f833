"""The sandbox's HTTP side: OpenAI's chat completions and models, and `/stats`, on one event loop.

A call is billed when it is accepted, before its latency has passed: whoever disconnects meanwhile has been billed, as
with a real provider. Streaming is refused. No key is asked for.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from itertools import count

import orjson
from aiohttp import web

from sandbox.account import BilledFile, Stats
from sandbox.answers import Answers, SyntheticAnswers
from sandbox.config import SandboxConfig
from sandbox.faults import UNBILLED, Fault, FaultSource, reset_connection
from sandbox.judging import judged
from sandbox.rates import RateLimits, refusal_headers
from sandbox.replay import ReplayAnswers
from sandbox.wire import ChatCall, Completion, Refusal, completion, count_tokens, error_body, parse_call

MAX_BODY = 64 * 1024 * 1024
SHUTDOWN_SECONDS = 1.0
BACKLOG = 1024


class Sandbox:
    """The handlers and what they share."""

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config
        self._answers: Answers = (
            SyntheticAnswers(config) if config.replay is None else ReplayAnswers(config, config.replay)
        )
        self._faults = FaultSource(config)
        self._rates = RateLimits(config)
        self._started = int(time.time())
        self._ids = count(1)
        # Ids of two runs must differ.
        self._run = secrets.token_hex(6)
        self._stopping = asyncio.Event()
        self.stats = Stats()
        self._billed = None if config.billed is None else BilledFile(config.billed)

    async def chat(self, request: web.Request) -> web.Response:
        self.stats.calls += 1
        try:
            call = parse_call(await request.read())
            self.stats.models[call.model].calls += 1
            refused = self._rates.admit(call.model, call.messages, time.monotonic())
            if refused is not None:
                return self._limited(call.model, *refused)
            fault = self._faults.draw()
            if fault is not None and fault in UNBILLED:
                return self._unbilled(request, fault)
            done = self._work(call, fault, request.headers.get("X-Client-Request-Id", ""))
        except Refusal as refusal:
            return self._response(refusal.status, refusal.body)
        except web.HTTPRequestEntityTooLarge:
            return self._error(413, f"The body is larger than {MAX_BODY} bytes.", "request_too_large")
        if fault is not None:
            self.stats.faults[fault] += 1
        if fault is Fault.HANG:
            await self._stopping.wait()
            return self._reset(request)
        delay = self._faults.latency()
        if delay:
            await asyncio.sleep(delay)
        if fault is Fault.RESET_AFTER:
            return self._reset(request)
        if fault is Fault.GARBAGE:
            return self._response(200, done.body[: len(done.body) // 2])
        self.stats.models[call.model].answered += 1
        response = self._response(200, done.body)
        response.headers.update(self._rates.headers(call.model, time.monotonic()))
        return response

    async def models(self, request: web.Request) -> web.Response:
        names = (self._config.strong_model, self._config.weak_model)
        data = [{"id": name, "object": "model", "created": self._started, "owned_by": "sandbox"} for name in names]
        return self._response(200, orjson.dumps({"object": "list", "data": data}))

    async def show_stats(self, request: web.Request) -> web.Response:
        return self._response(200, orjson.dumps(self.stats.as_json()))

    async def healthz(self, request: web.Request) -> web.Response:
        return self._response(200, b'{"status":"ok"}')

    async def not_found(self, request: web.Request) -> web.Response:
        return self._error(404, f"Unknown request URL: {request.method} {request.path}.", "unknown_url")

    async def stop(self, app: web.Application) -> None:
        self._stopping.set()

    async def close(self, app: web.Application) -> None:
        if self._billed is not None:
            self._billed.close()

    def _work(self, call: ChatCall, fault: Fault | None, client_request_id: str) -> Completion:
        """Answer the call and bill it."""
        verdict = judged(self._config, call.prompt)
        answers = [
            self._answers.answer(call.model, call.prompt, choice) if verdict is None else verdict
            for choice in range(call.choices)
        ]
        input_tokens = count_tokens(call.messages)
        done = completion(
            call,
            answers,
            call_id=self._next_id(),
            input_tokens=input_tokens,
            fingerprint=self._answers.fingerprint,
            says_usage=fault is not Fault.NO_USAGE,
        )
        self.stats.bill(call.model, call.messages, input_tokens, done.output_tokens)
        self._rates.bill(call.model, input_tokens + done.output_tokens, time.monotonic())
        if self._billed is not None:
            self._billed.add(call.model, input_tokens, done.output_tokens, client_request_id)
        return done

    def _unbilled(self, request: web.Request, fault: Fault) -> web.Response:
        self.stats.faults[fault] += 1
        if fault is Fault.RESET:
            return self._reset(request)
        if fault is Fault.TOO_MANY_REQUESTS:
            response = self._error(429, "Rate limit reached (simulated).", "rate_limit_exceeded", "requests")
            response.headers["Retry-After"] = "1"
            return response
        return self._error(500, "The server had an error (simulated).", None, "server_error")

    def _limited(self, model: str, what: str, wait_s: float) -> web.Response:
        self.stats.models[model].limited += 1
        message = f"Rate limit reached for {model} on {what} per minute. Please try again in {wait_s:.3f}s."
        response = self._error(429, message, "rate_limit_exceeded", what)
        response.headers.update(refusal_headers(wait_s) | self._rates.headers(model, time.monotonic()))
        return response

    def _reset(self, request: web.Request) -> web.Response:
        reset_connection(request.transport)
        # aiohttp wants a response from every handler; on a dead connection it is dropped.
        return web.Response(status=500)

    def _error(self, status: int, message: str, code: str | None, kind: str = "invalid_request_error") -> web.Response:
        return self._response(status, error_body(message, code=code, param=None, kind=kind))

    def _response(self, status: int, body: bytes) -> web.Response:
        headers = {"x-request-id": f"req_{self._next_id()}"}
        return web.Response(status=status, body=body, headers=headers, content_type="application/json")

    def _next_id(self) -> str:
        return f"{self._run}{next(self._ids):010x}"


def create_app(config: SandboxConfig) -> web.Application:
    """The application; raises ValueError or OSError where the replay table cannot be used or the bill not written."""
    sandbox = Sandbox(config)
    app = web.Application(client_max_size=MAX_BODY)
    app.router.add_post("/v1/chat/completions", sandbox.chat)
    app.router.add_get("/v1/models", sandbox.models)
    app.router.add_get("/stats", sandbox.show_stats)
    app.router.add_get("/healthz", sandbox.healthz)
    app.router.add_route("*", "/{path:.*}", sandbox.not_found)
    app.on_shutdown.append(sandbox.stop)
    app.on_cleanup.append(sandbox.close)
    return app


async def serve(config: SandboxConfig, *, ready: Callable[[str], object], stop: asyncio.Event) -> None:
    """Serve until `stop` is set; `ready` is told the base URL once connections are accepted.

    Raises OSError where the address cannot be bound.
    """
    runner = web.AppRunner(
        create_app(config), access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_SECONDS
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, config.host, config.port, backlog=BACKLOG).start()
        host, port = runner.addresses[0][:2]
        ready(f"http://{f'[{host}]' if ':' in host else host}:{port}/v1")
        await stop.wait()
    finally:
        await runner.cleanup()
