"""The sandbox's faults: what a client sees of each, and which of them are billed."""

from __future__ import annotations

import asyncio
import csv
import json
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from sandbox.app import create_app
from sandbox.config import FAULT_RATES, SandboxConfig
from sandbox.faults import FaultSource

Client = TestClient[Any, Any]
CHAT = "/v1/chat/completions"
DEADLINE = 20.0


def in_sandbox(scenario: Callable[[Client], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        config = SandboxConfig(**{"latency_ms": 0, **options})
        async with TestClient(TestServer(create_app(config), handler_cancellation=True)) as client:
            await scenario(client)

    asyncio.run(run())


def post(client: Client, prompt: str = "Hello", client_request_id: str = "") -> Any:
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}]}
    return client.post(CHAT, json=body, headers={"X-Client-Request-Id": client_request_id})


async def stats(client: Client) -> dict[str, Any]:
    async with client.get("/stats") as response:
        answer: dict[str, Any] = await response.json()
        return answer


async def billed(client: Client, times: int) -> dict[str, Any]:
    """Wait until the sandbox has billed the model that often; the model's account."""
    async with asyncio.timeout(DEADLINE):
        while True:
            account: dict[str, Any] = (await stats(client))["models"].get("m", {})
            if account.get("billed") == times:
                return account
            await asyncio.sleep(0.01)


def test_429_and_500_are_openai_errors_and_not_billed() -> None:
    async def refused(client: Client, status: int, retry_after: str | None) -> None:
        async with post(client) as response:
            assert response.status == status
            assert response.headers.get("Retry-After") == retry_after
            assert set((await response.json())["error"]) == {"message", "type", "param", "code"}
        seen = await stats(client)
        assert seen["faults"][str(status)] == 1
        account = seen["models"]["m"]
        assert account.pop("calls") == 1
        assert not any(account.values())

    in_sandbox(lambda client: refused(client, 429, "1"), p429=1.0)
    in_sandbox(lambda client: refused(client, 500, None), p500=1.0)


@pytest.mark.parametrize(("fault", "times"), [("reset", 0), ("reset_after", 1)])
def test_a_reset_is_billed_only_after_the_work(fault: str, times: int) -> None:
    async def scenario(client: Client) -> None:
        with pytest.raises(aiohttp.ClientConnectionError):
            await post(client)
        account = await billed(client, times)
        assert account["answered"] == 0
        assert bool(account["output_tokens"]) == bool(times)
        assert (await stats(client))["faults"][fault] == 1

    in_sandbox(scenario, **{fault: 1.0})


def test_a_reset_is_a_real_one_and_not_an_orderly_close() -> None:
    async def scenario(client: Client) -> None:
        payload = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]}).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(payload)}\r\n\r\n".encode()

        def exchange() -> None:
            with socket.create_connection((client.host, client.port), timeout=DEADLINE) as connection:
                connection.sendall(head + payload)
                with pytest.raises(ConnectionResetError):
                    connection.recv(1)

        await asyncio.to_thread(exchange)

    in_sandbox(scenario, reset=1.0)


def test_a_hanging_call_is_billed_and_never_answered() -> None:
    async def scenario(client: Client) -> None:
        call = asyncio.ensure_future(post(client))
        account = await billed(client, 1)
        assert account["answered"] == 0
        assert not call.done()
        call.cancel()
        assert (await stats(client))["faults"]["hang"] == 1

    in_sandbox(scenario, hang=1.0)


def test_a_client_that_leaves_while_it_waits_is_billed() -> None:
    async def scenario(client: Client) -> None:
        call = asyncio.ensure_future(post(client))
        await billed(client, 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        account = await billed(client, 1)
        assert account["answered"] == 0
        assert account["input_tokens"] > 0

    in_sandbox(scenario, latency_ms=3_600_000)


def test_garbage_is_billed_and_breaks_off() -> None:
    async def scenario(client: Client) -> None:
        async with post(client) as response:
            assert response.status == 200
            with pytest.raises(json.JSONDecodeError):
                json.loads(await response.read())
        assert (await billed(client, 1))["answered"] == 0

    in_sandbox(scenario, garbage=1.0)


def test_an_answer_without_usage_is_whole_and_billed() -> None:
    async def scenario(client: Client) -> None:
        async with post(client) as response:
            answer = await response.json()
        assert answer["choices"][0]["message"]["content"]
        assert "usage" not in answer
        account = await billed(client, 1)
        assert (account["answered"], account["output_tokens"] > 0) == (1, True)

    in_sandbox(scenario, no_usage=1.0)


def test_the_bill_lists_every_billed_call_by_the_id_that_it_came_with(tmp_path: Path) -> None:
    path = tmp_path / "billed.csv"

    async def scenario(client: Client) -> None:
        for number in range(40):
            with suppress(aiohttp.ClientError):
                await post(client, client_request_id=f"call-{number}")
        account = (await stats(client))["models"]["m"]
        with path.open(newline="") as file:
            lines = list(csv.DictReader(file))
        assert 0 < len(lines) == account["billed"] < 40
        assert len({line["client_request_id"] for line in lines}) == len(lines)
        for tokens in ("input_tokens", "output_tokens"):
            assert sum(int(line[tokens]) for line in lines) == account[tokens]

    in_sandbox(scenario, reset=0.2, reset_after=0.2, p500=0.2, billed=path)


def test_stats_add_up_what_was_answered_and_count_repeats() -> None:
    async def scenario(client: Client) -> None:
        usages = []
        for prompt in ("one", "two", "two", "three", "three", "three"):
            async with post(client, prompt) as response:
                usages.append((await response.json())["usage"])
        seen = await stats(client)
        assert seen["calls"] == 6
        assert seen["models"]["m"] == {
            "calls": 6,
            "limited": 0,
            "answered": 6,
            "billed": 6,
            "input_tokens": sum(usage["prompt_tokens"] for usage in usages),
            "output_tokens": sum(usage["completion_tokens"] for usage in usages),
        }
        assert seen["seen"] == {"max_repeats": 3, "repeated": 2}
        assert not any(seen["faults"].values())

    in_sandbox(scenario)


def test_faults_and_latencies_follow_the_seed_and_the_rates() -> None:
    rates: dict[str, Any] = dict.fromkeys(FAULT_RATES, 0.1)

    def draws(seed: int) -> list[Any]:
        source = FaultSource(SandboxConfig(seed=seed, latency_ms=50, **rates))
        return [(source.draw(), source.latency()) for _ in range(4000)]

    assert draws(1) == draws(1) != draws(2)
    faults = [fault for fault, _ in draws(1)]
    assert len(set(faults)) == len(FAULT_RATES) + 1
    for fault in set(faults) - {None}:
        assert 300 < faults.count(fault) < 500
    latencies = sorted(latency for _, latency in draws(1))
    assert 0.048 < latencies[2000] < 0.052
    assert latencies[0] < 0.035
    assert latencies[-1] > 0.070


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p429": 0.6, "hang": 0.6}, "add up to more than 1"),
        ({"reset": -0.1}, "reset must be a probability"),
        ({"latency_ms": -1}, "latency_ms"),
        ({"strong_model": "a", "weak_model": "a"}, "must differ"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SandboxConfig(**options)
