"""The sandbox over HTTP: OpenAI's shapes, caps, usage, refusals, replay."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from sandbox.app import create_app
from sandbox.config import SandboxConfig
from sandbox.problems import generate

Client = TestClient[Any, Any]
PROBLEM = generate(1, seed=3)[0]
CHAT = "/v1/chat/completions"


def in_sandbox(scenario: Callable[[Client], Awaitable[None]], **options: Any) -> None:
    """Run a scenario against a sandbox without latency."""

    async def run() -> None:
        config = SandboxConfig(**{"latency_ms": 0, **options})
        async with TestClient(TestServer(create_app(config))) as client:
            await scenario(client)

    asyncio.run(run())


def body(prompt: str = PROBLEM.prompt, model: str = "sandbox-strong", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": prompt}], **more}


async def ask(client: Client, payload: Any, status: int = 200) -> dict[str, Any]:
    async with client.post(CHAT, json=payload) as response:
        assert response.status == status, await response.text()
        assert response.headers["x-request-id"]
        answer: dict[str, Any] = await response.json()
        return answer


async def stats(client: Client) -> dict[str, Any]:
    async with client.get("/stats") as response:
        answer: dict[str, Any] = await response.json()
        return answer


def test_an_answer_has_the_shape_of_openais_chat_completion() -> None:
    async def scenario(client: Client) -> None:
        answer = await ask(client, body(model="my-strong-one"))
        content = answer["choices"][0]["message"].pop("content")
        usage = answer["usage"]
        assert content.endswith(f"Answer: {PROBLEM.answer}")
        assert answer.pop("id").startswith("chatcmpl-")
        assert isinstance(answer.pop("created"), int)
        assert answer == {
            "object": "chat.completion",
            "model": "my-strong-one",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "refusal": None, "annotations": []},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": usage["prompt_tokens"],
                "completion_tokens": usage["completion_tokens"],
                "total_tokens": usage["prompt_tokens"] + usage["completion_tokens"],
                "prompt_tokens_details": {"cached_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0},
            },
            "system_fingerprint": "simulation",
        }
        assert 0 < usage["completion_tokens"] <= len(content.encode())

    in_sandbox(scenario)


def test_prompt_tokens_never_exceed_the_bytes_of_the_messages() -> None:
    async def scenario(client: Client) -> None:
        for prompt in ("", "a", "日本語のテキスト", PROBLEM.prompt * 20):
            payload = body(prompt)
            usage = (await ask(client, payload))["usage"]
            size = len(json.dumps(payload["messages"], ensure_ascii=False, separators=(",", ":")).encode())
            assert 0 < usage["prompt_tokens"] <= size

    in_sandbox(scenario)


@pytest.mark.parametrize("parameter", ["max_tokens", "max_completion_tokens"])
def test_the_cap_is_obeyed_and_said(parameter: str) -> None:
    async def scenario(client: Client) -> None:
        answer = await ask(client, body() | {parameter: 5, "n": 3})
        assert [choice["finish_reason"] for choice in answer["choices"]] == ["length"] * 3
        assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
        assert answer["usage"]["completion_tokens"] == 15
        roomy = await ask(client, body() | {parameter: 500})
        assert roomy["choices"][0]["finish_reason"] == "stop"

    in_sandbox(scenario)


def test_the_last_user_message_is_answered_in_parts_too() -> None:
    async def scenario(client: Client) -> None:
        payload = body("something else")
        payload["messages"] += [
            {"role": "assistant", "content": None},
            {"role": "user", "content": [{"type": "text", "text": PROBLEM.prompt}]},
        ]
        answer = await ask(client, payload)
        assert answer["choices"][0]["message"]["content"].endswith(f"Answer: {PROBLEM.answer}")

    in_sandbox(scenario)


BAD_BODIES: dict[str, tuple[Any, str | None]] = {
    "a list": ([1], None),
    "no model": ({"messages": [{"role": "user", "content": "x"}]}, "model"),
    "no messages": ({"model": "m"}, "messages"),
    "empty messages": ({"model": "m", "messages": []}, "messages"),
    "no user message": ({"model": "m", "messages": [{"role": "system", "content": "x"}]}, "messages"),
    "a message without role": ({"model": "m", "messages": [{"content": "x"}]}, "messages[0]"),
    "an image": (
        {"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "messages[0].content",
    ),
    "stream": (body(stream=True), "stream"),
    "a cap of nothing": (body(max_tokens=0), "max_tokens"),
    "a cap in words": (body(max_completion_tokens="many"), "max_completion_tokens"),
    "both caps": (body(max_tokens=5, max_completion_tokens=5), "max_tokens"),
    "too many choices": (body(n=1000), "n"),
    "a boolean n": (body(n=True), "n"),
}


@pytest.mark.parametrize(("payload", "param"), BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_bad_body_gets_an_openai_error_and_costs_nothing(payload: Any, param: str | None) -> None:
    async def scenario(client: Client) -> None:
        error = (await ask(client, payload, status=400))["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        assert error["param"] == param
        seen = await stats(client)
        assert seen["calls"] == 1
        assert seen["models"] == {}

    in_sandbox(scenario)


def test_broken_and_deeply_nested_json_are_refused() -> None:
    async def scenario(client: Client) -> None:
        for raw in (b"{", b"\xff\xfe", b"[" * 100_000, b""):
            async with client.post(CHAT, data=raw) as response:
                assert response.status == 400
                assert (await response.json())["error"]["code"] == "invalid_json"

    in_sandbox(scenario)


def test_an_unknown_address_gets_an_openai_error() -> None:
    async def scenario(client: Client) -> None:
        for path in ("/v1/nothing", CHAT):
            async with client.get(path) as response:
                assert response.status == 404
                assert (await response.json())["error"]["code"] == "unknown_url"
                assert response.headers["x-request-id"]

    in_sandbox(scenario)


def test_models_and_health_answer() -> None:
    async def scenario(client: Client) -> None:
        async with client.get("/v1/models") as response:
            assert [model["id"] for model in (await response.json())["data"]] == ["big", "small"]
        async with client.get("/healthz") as response:
            assert response.status == 200

    in_sandbox(scenario, strong_model="big", weak_model="small")


ROWS = [
    {"prompt": " What is it? ", "gold": "1", "strong_response": 'It is one,\n"really".', "weak_response": "Two"},
    {"prompt": "Why?", "gold": "2", "strong_response": "Because.", "weak_response": " No idea"},
]


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz"])
def test_replay_gives_the_recorded_answer_of_the_model_asked_for(tmp_path: Path, name: str) -> None:
    async def scenario(client: Client) -> None:
        for row in ROWS:
            asked = {"big": "strong", "gpt-4-1106": "strong", "a-weak-one": "weak", "Mixtral-8x7B": "weak"}
            for model, column in asked.items():
                answer = await ask(client, body(f"\n{row['prompt']}", model=model))
                assert answer["choices"][0]["message"]["content"] == row[f"{column}_response"]
                assert answer["system_fingerprint"] == "replay"

    in_sandbox(scenario, replay=write_table(tmp_path / name, ROWS), strong_model="big")


def test_replay_refuses_unknown_prompts_models_and_streams_for_free(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        unknown = await ask(client, body("Who?"), status=404)
        assert unknown["error"]["code"] == "prompt_not_in_replay"
        stranger = await ask(client, body("Why?", model="llama"), status=404)
        assert stranger["error"]["code"] == "model_not_found"
        await ask(client, body("Why?", stream=True), status=400)
        seen = await stats(client)
        assert [account["billed"] for account in seen["models"].values()] == [0, 0]

    in_sandbox(scenario, replay=write_table(tmp_path / "table.csv", ROWS))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prompt,weak_response\na,b\n", "no column strong_response"),
        ("prompt,strong_response,weak_response\n", "no answers"),
        ("prompt,strong_response,weak_response\na,b\n", "line 2: the row is too short"),
        ("\udcff", "not a readable CSV"),
    ],
)
def test_a_table_that_cannot_be_replayed_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message) as caught:
        create_app(SandboxConfig(replay=path))
    assert "table.csv" in str(caught.value)
