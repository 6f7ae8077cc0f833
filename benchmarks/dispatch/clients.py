"""The peers of `benchmarks.dispatch` that run in one process: litellm's Router, and the bare openai client.

`python clients.py litellm|openai BASE_URL IN_FLIGHT`, in the project's environment or one of the peers' own:
this imports nothing of ours. "ready" is printed after a warm-up; then every line `{"calls": n}` is answered by what the
calls took.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

MODELS = ("strong", "weak")
CAP = 128
WARM_UP = 50
Call = Callable[[str, list[dict[str, str]]], Awaitable[Any]]


def prompt(number: int) -> str:
    """Another one for each number, of the length of a word problem."""
    return (
        f"{number}. A shop has {number} boxes of pencils. Each box holds 7 pencils, of which two are red and the others"
        " are blue. Half of the blue ones are sold on Monday. How many pencils are left on Tuesday morning?"
    )


def litellm_router(base_url: str) -> Call:
    """litellm's Router as its documentation sets it up, without retries."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it would ask the network for prices
    deployments = [
        {
            "model_name": name,
            "litellm_params": {"model": f"openai/sandbox-{name}", "api_base": base_url, "api_key": "none"},
        }
        for name in MODELS
    ]
    router = import_module("litellm").Router(model_list=deployments, num_retries=0)
    return lambda model, messages: router.acompletion(model=model, messages=messages, max_tokens=CAP)


def openai_client(base_url: str) -> Call:
    """One client for all calls, without retries."""
    client = import_module("openai").AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0)
    return lambda model, messages: client.chat.completions.create(
        model=f"sandbox-{model}", messages=messages, max_tokens=CAP
    )


async def ask(call: Call, calls: int, in_flight: int) -> None:
    """Answer all of them, never more than `in_flight` at a time."""
    numbers = iter(range(calls))

    async def work() -> None:
        for number in numbers:
            answer = await call(MODELS[number % 2], [{"role": "user", "content": prompt(number)}])
            assert answer.usage.total_tokens > 0
            assert answer.choices[0].message.content

    await asyncio.gather(*(work() for _ in range(in_flight)))


async def main(kind: str, base_url: str, in_flight: int) -> None:
    call = {"litellm": litellm_router, "openai": openai_client}[kind](base_url)
    await ask(call, WARM_UP, in_flight)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while line := await asyncio.to_thread(sys.stdin.readline):
        calls = json.loads(line)["calls"]
        started, cpu = time.monotonic(), time.process_time()
        await ask(call, calls, in_flight)
        took = {"calls": calls, "seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - cpu}
        sys.stdout.write(json.dumps(took) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
