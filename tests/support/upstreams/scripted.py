"""An upstream that answers by a script, without a network, and a database with batches for it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from sqlalchemy import text

from routing_service.db import Database
from routing_service.dispatch.pump import Pump
from routing_service.dispatch.sweep import sweep
from routing_service.money.pricing import price_book
from routing_service.settings import Settings
from routing_service.upstream.client import AnswerMemory, Upstreams
from routing_service.upstream.outcome import Outcome, read_answer, unsent
from tests.support.factories import STRONG, WEAK, make_settings
from tests.support.fakes import FakePublisher
from tests.support.planned import Planned, make_planned_batch

ANSWER = {"choices": [{"message": {"content": "4"}}], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
WITHDRAWN = {"error": {"message": "Incorrect API key provided: sk-abcdefghijkl", "code": "invalid_api_key"}}
FLAGGED = {"error": {"message": "this input is flagged", "code": "moderation"}}
QUICK = {"idle_s": 0.3, "backoff_base_s": 0.01, "backoff_max_s": 0.02, "settle_interval_ms": 10, "claim_s": 2}


class ScriptedUpstreams(Upstreams):
    """Answers by model and prompt, without a network."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.models, 1_000_000)
        self.settings = settings
        self.refusing: dict[str, tuple[int, Any]] = {}  # by model: status and body
        self.down: set[str] = set()
        self.flagged = "never asked"
        self.calls: list[tuple[str, str]] = []

    async def chat(self, model: str, body: bytes, memory: AnswerMemory, call_id: str) -> Outcome:
        prompt = json.loads(body)["messages"][0]["content"]
        self.calls.append((model, prompt))
        await asyncio.sleep(0.002)
        if model in self.down:
            return unsent("could not connect")
        status, answer = self.refusing.get(model, (200, ANSWER))
        if prompt == self.flagged:
            status, answer = 403, FLAGGED
        return read_answer(status, {}, json.dumps(answer).encode(), self.settings.models[model])

    def called(self, model: str) -> int:
        return sum(called == model for called, _ in self.calls)


class Stage:
    """A database with a scripted upstream."""

    def __init__(self, database: Database, **changes: Any) -> None:
        self.database, self.changes = database, changes
        self.models: dict[str, dict[str, Any]] = {}  # more of them
        self.settings = self.configured()
        self.script: dict[str, Any] = {}
        self.upstreams: ScriptedUpstreams

    def configured(self, **strong: Any) -> Settings:
        more = {name: WEAK | {"name": f"sandbox-{name}"} | model for name, model in self.models.items()}
        models = {"strong": STRONG | {"max_concurrency": 16} | strong, "weak": WEAK} | more
        return make_settings(models=models, dispatch=QUICK | self.changes)

    def plan(self, *requests: Planned, **options: Any) -> str:
        with self.database.transaction() as session:
            return make_planned_batch(session, requests, shadow_price=1.0, **options)

    def pump(self) -> None:
        async def run() -> None:
            self.upstreams = ScriptedUpstreams(self.settings)
            for name, value in self.script.items():
                setattr(self.upstreams, name, value)
            prices = price_book(self.settings)
            try:
                await Pump(self.database, self.settings, prices, self.upstreams, FakePublisher()).run()
            finally:
                await self.upstreams.close()

        asyncio.run(run())

    def sweep(self) -> FakePublisher:
        publisher = FakePublisher()
        sweep(self.database, self.settings, publisher)
        return publisher

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self.database.transaction() as session:
            return [tuple(row) for row in session.execute(text(query))]

    def change(self, statement: str) -> None:
        with self.database.transaction() as session:
            session.execute(text(statement))

    def states(self) -> dict[str, int]:
        return {row[0]: row[1] for row in self.rows("select state::text, count(*) from requests group by 1")}


def dear(count: int) -> list[Planned]:
    return [Planned(ratio=2.0 + n / 1000, prompt=f"dear {n}") for n in range(count)]


def cheap(count: int) -> list[Planned]:
    return [Planned(ratio=0.5, prompt=f"cheap {n}") for n in range(count)]
