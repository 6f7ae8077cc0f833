"""What the benchmarks share: a sandbox and a whole stack as processes, and an eye on every process's memory."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from openai import OpenAI

from deploy.processes import resolve

CONFIG = """
[models.strong]
name = "{strong}"
base_url = "{url}"
input_usd_per_million = 10
output_usd_per_million = 30
max_output_tokens = {cap}
max_concurrency = {concurrency}
[models.weak]
name = "{weak}"
base_url = "{url}"
input_usd_per_million = 0.6
output_usd_per_million = 0.6
max_output_tokens = {cap}
max_concurrency = {concurrency}
[routing]
candidates = ["weak", "strong"]
"""
PRICES = {"strong": (10_000, 30_000), "weak": (600, 600)}  # nano-dollars a token, as in CONFIG


@dataclass
class Stack:
    """A running stack, its client, and the sandbox it calls."""

    root: Path
    sandbox_url: str
    details: dict[str, Any]
    strong: str
    weak: str
    peaks: dict[str, int] = field(default_factory=dict)  # process name -> peak RSS in bytes, children apart

    def client(self) -> OpenAI:
        return OpenAI(base_url=self.details["api_url"] + "/v1", api_key=self.details["api_key"], timeout=600)

    def run(self, *arguments: str) -> str:
        """A `routebatch` command against this stack; its standard output."""
        env = os.environ | {"ROUTEBATCH_STATE_DIR": str(self.root)}
        command = [*resolve(("routebatch",)), *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)}: exit {done.returncode}: {done.stderr}{done.stdout}")
        return done.stdout

    def billed_nano(self) -> int:
        """The sandbox's account at this benchmark's prices."""
        with urllib.request.urlopen(self.sandbox_url.removesuffix("/v1") + "/stats", timeout=30) as answer:
            models = json.load(answer)["models"]
        kinds = {self.strong: PRICES["strong"], self.weak: PRICES["weak"]}
        return sum(
            m["input_tokens"] * kinds[name][0] + m["output_tokens"] * kinds[name][1] for name, m in models.items()
        )


@contextmanager
def running_stack(
    *sandbox_options: str,
    strong: str = "sandbox-strong",
    weak: str = "sandbox-weak",
    concurrency: int = 256,
    cap: int = 256,
    extra: str = "",
) -> Iterator[Stack]:
    """A sandbox with the given options and a stack in a temporary state directory. `extra`: more configuration."""
    command = [*resolve(("routebatch",)), "sandbox", "--port", "0", *sandbox_options]
    with (
        tempfile.TemporaryDirectory(prefix="rb-bench-") as directory,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sandbox,
    ):
        assert sandbox.stdout is not None
        try:
            url = sandbox.stdout.readline().split()[-1]
            config = Path(directory, "routebatch.toml")
            config.write_text(
                CONFIG.format(url=url, strong=strong, weak=weak, cap=cap, concurrency=concurrency) + extra
            )
            root = Path(directory, "state")
            with _up(root, config) as details:
                stack = Stack(root, url, details, strong, weak)
                with _watching(stack):
                    yield stack
        finally:
            sandbox.terminate()


@contextmanager
def _up(root: Path, config: Path) -> Iterator[dict[str, Any]]:
    base = [*resolve(("routebatch",))]
    where = ["--state-dir", str(root)]
    ports = ["--port", "0", "--flower-port", "0", "--detach", "--json"]
    try:
        done = subprocess.run(
            [*base, "up", *where, "--config", str(config), *ports], stdout=subprocess.PIPE, text=True, check=True
        )
        yield json.loads(done.stdout.splitlines()[-1])
    finally:
        subprocess.run([*base, "down", *where], check=True)


@contextmanager
def _watching(stack: Stack) -> Iterator[None]:
    """Keep the peak resident memory of every process of the stack, the largest child for pools."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            processes = json.loads((stack.root / "stack.json").read_text())["processes"]
            for name, pid in processes.items():
                if name == "supervisord":  # the parent of all
                    continue
                try:
                    process = psutil.Process(pid)
                    for one in [process, *process.children(recursive=True)]:
                        stack.peaks[name] = max(stack.peaks.get(name, 0), one.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
