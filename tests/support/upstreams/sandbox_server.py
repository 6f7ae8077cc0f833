"""The sandbox upstream in a thread of the test process: its base URL, and its account of what it billed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sandbox.app import serve
from sandbox.config import SandboxConfig

PRICES = {"sandbox-strong": (10_000, 30_000), "sandbox-weak": (150, 600)}  # nano-dollars a token


@dataclass(frozen=True)
class Sandbox:
    base_url: str

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(self.base_url.removesuffix("/v1") + "/stats", timeout=10) as answer:
            return dict(json.load(answer))

    def billed_nano(self) -> int:
        """What the sandbox would bill, at the prices of tests/support/factories.py."""
        models = self.stats()["models"]
        return sum(
            m["input_tokens"] * PRICES[name][0] + m["output_tokens"] * PRICES[name][1] for name, m in models.items()
        )


@contextmanager
def run_sandbox(**options: Any) -> Iterator[Sandbox]:
    """Serve until the block ends; `options` are SandboxConfig's."""
    started, urls = threading.Event(), list[str]()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    def announce(url: str) -> None:
        urls.append(url)
        started.set()

    def run() -> None:
        loop.run_until_complete(serve(SandboxConfig(**options), ready=announce, stop=stop))
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert started.wait(10)
        yield Sandbox(urls[0])
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


@contextmanager
def sandbox_process(*options: str) -> Iterator[str]:
    """`routebatch sandbox` as a process of its own, with these options; its base URL."""
    command = [sys.executable, "-c", "from cli.main import main; main()", "sandbox", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()
