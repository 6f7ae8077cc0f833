"""`routebatch sandbox` as a process: it says where it listens, serves, and stops cleanly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.operate.sandbox import sandbox

DEADLINE = 60


@contextmanager
def started(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A sandbox process and its base URL."""
    command = [sys.executable, "-c", "from cli.main import main; main()", "sandbox", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("sandbox listening on http://127.0.0.1:")
            yield process, line.split()[-1]
        finally:
            process.kill()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_and_stops_with_exit_code_zero_though_a_call_hangs(stop: signal.Signals) -> None:
    with started("--latency-ms", "0", "--hang", "1") as (process, url):
        with urllib.request.urlopen(f"{url}/models", timeout=DEADLINE) as response:
            assert [model["id"] for model in json.load(response)["data"]] == ["sandbox-strong", "sandbox-weak"]
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]})
        call = f"import urllib.request as u; u.urlopen(u.Request('{url}/chat/completions', data={body.encode()!r}))"
        with subprocess.Popen([sys.executable, "-c", call], stderr=subprocess.DEVNULL) as hanging:
            wait_until_billed(url)
            os.kill(process.pid, stop)
            assert process.wait(DEADLINE) == 0
            assert hanging.wait(DEADLINE) != 0


def wait_until_billed(url: str) -> None:
    # Each turn is a round trip, so this is a poll with a deadline in turns.
    for _ in range(20_000):
        with urllib.request.urlopen(f"{url.removesuffix('/v1')}/stats", timeout=DEADLINE) as response:
            if json.load(response)["models"]:
                return
    raise AssertionError("the call never arrived")


def test_a_port_in_use_is_an_error_with_exit_code_one() -> None:
    with started() as (_, url):
        port = url.removesuffix("/v1").rsplit(":", 1)[1]
        result = CliRunner().invoke(sandbox, ["--port", port])
    assert result.exit_code == 1
    assert "address already in use" in result.output


def test_wrong_options_are_usage_errors(tmp_path: Path) -> None:
    for options in (["--p429", "1.5"], ["--p429", "0.7", "--p500", "0.7"], ["--replay", str(tmp_path / "none.csv")]):
        assert CliRunner().invoke(sandbox, options).exit_code == 2


def test_a_table_without_answers_is_an_error_with_exit_code_one(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("prompt\nx\n")
    result = CliRunner().invoke(sandbox, ["--port", "0", "--replay", str(table)])
    assert result.exit_code == 1
    assert "no column strong_response, weak_response" in result.output


def test_the_help_says_that_it_is_a_simulation() -> None:
    assert "SIMULATED" in CliRunner().invoke(sandbox, ["--help"]).output
