"""`make demo`: the whole of routebatch once, on this machine, without a key.

A sandbox upstream and a stack in a temporary state directory; 600 word problems under a budget that buys the strong
model for about half of them; a summary. Everything is stopped and removed at the end, whatever the end is.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any

from rich.console import Console

from deploy import leftovers
from deploy.demo_summary import Outcome, summary_table
from deploy.errors import StackError
from deploy.isolation import foreign_dir, isolation
from deploy.layout import StateDir
from deploy.processes import resolve
from deploy.stack import stop

EXAMPLES = Path(__file__).parents[1] / "examples"
RESULTS, ERRORS = Path("demo-results.jsonl"), Path("demo-results-errors.jsonl")
BUDGET_USD = "0.35"  # all-strong is planned at about 0.73, all-weak at about 0.01
INCOMPLETE = 3  # exit code of a batch that its budget stopped
STOP_SECONDS = 60
KEPT = ("ROUTEBATCH_POSTGRES_BIN", "ROUTEBATCH_VALKEY_SERVER")
CONFIG = """\
[models.strong]
name = "sandbox-strong"
base_url = "{url}"
input_usd_per_million = 10.0
output_usd_per_million = 30.0
max_output_tokens = 128
expected_output_tokens = 20

[models.weak]
name = "sandbox-weak"
base_url = "{url}"
input_usd_per_million = 0.15
output_usd_per_million = 0.6
max_output_tokens = 128
expected_output_tokens = 20

[routing]
candidates = ["weak", "strong"]
"""

screen = Console(stderr=True, highlight=False)


class DemoError(Exception):
    """The demo cannot go on."""


def main() -> int:
    """Run the demo; the exit code."""
    _raise_on_signals()
    try:
        with _state_dir() as state, _sandbox() as url:
            outcome = _run(state, url)
        Console(highlight=False).print(summary_table(outcome))
        _say(f"results: {RESULTS.absolute()}")
        if outcome.errors:
            _say(f"errors: {ERRORS.absolute()}")
    except (DemoError, StackError, OSError) as error:
        screen.print(f"the demo failed: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        _say("interrupted; everything is stopped")
        return 130
    return 0


def _run(state: Path, sandbox_url: str) -> Outcome:
    """Start the stack, submit the problems, and gather what came of them."""
    problems = EXAMPLES / "problems.jsonl"
    if not problems.is_file():
        raise DemoError(f"{problems} is missing: run the demo from a checkout")
    config = state / "routebatch.toml"
    config.write_text(CONFIG.format(url=sandbox_url))
    here = ("--state-dir", str(state))
    ports = ("--port", "0", "--flower-port", "0")
    up = _routebatch(state, "up", *here, "--config", str(config), *ports, "--detach", "--json")
    _say(f"the stack is ready: API {up['api_url']}, Flower {up['flower_url']}")
    _say(f"submitting {problems.name} under a budget of ${BUDGET_USD}")
    started = time.monotonic()
    submit = ("submit", str(problems), "--budget", BUDGET_USD, "--output", str(RESULTS), "--json")
    batch = _routebatch(state, *submit, allowed=(0, INCOMPLETE))
    seconds = time.monotonic() - started
    if batch["error_file_id"]:
        _routebatch(state, "results", batch["id"], "--errors", str(ERRORS), json_wanted=False)
    (costs,) = _routebatch(state, "report", "costs", "--batch", batch["id"], "--format", "json", *here)
    return Outcome.of(batch, costs, seconds, RESULTS, EXAMPLES / "problems_gold.csv")


def _routebatch(state: Path, *arguments: str, allowed: tuple[int, ...] = (0,), json_wanted: bool = True) -> Any:
    """Run a command as a person would; its last line of output as JSON."""
    argv = resolve(("routebatch", *arguments))
    with _process(argv, _environment(state)) as process:
        output, _ = process.communicate()
        if process.returncode not in allowed:
            raise DemoError(f"`routebatch {arguments[0]}` ended with exit code {process.returncode}")
    return json.loads(output.strip().splitlines()[-1]) if json_wanted else None


def _environment(state: Path) -> dict[str, str]:
    """The caller's environment without settings of its own, which might point to a real stack.

    Temporary files lie in the state directory, so that they go with it.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("ROUTEBATCH_") or name in KEPT}
    return env | {"ROUTEBATCH_STATE_DIR": str(state), "TMPDIR": str(state)}


@contextmanager
def _process(argv: list[str], env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process in a session of its own, so that Ctrl-C reaches us first; ended with the block at the latest."""
    with subprocess.Popen(
        argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


@contextmanager
def _sandbox() -> Iterator[str]:
    """The simulated upstream; yields its base URL."""
    with _process(resolve(("routebatch", "sandbox", "--port", "0")), dict(os.environ)) as process:
        yield _address(process.stdout)


def _address(stdout: IO[str] | None) -> str:
    line = stdout.readline() if stdout else ""
    if not line.startswith("sandbox listening on "):
        raise DemoError("the sandbox did not start")
    return line.split()[-1]


@contextmanager
def _state_dir() -> Iterator[Path]:
    """A temporary state directory, whose stack is stopped and which is removed when the block ends."""
    root = Path(tempfile.mkdtemp(prefix="routebatch-demo-"))
    state = StateDir.at(root)
    try:
        yield root
    finally:
        _ignore_signals()
        if screen.is_terminal:
            screen.show_cursor()  # a progress bar that was cut off has hidden it
        _say("stopping everything")
        stop(state)
        left = leftovers.end(root)
        sockets, uid = state.sockets, isolation().uid
        for place in (sockets, root, foreign_dir(root, uid) if uid is not None else root):
            shutil.rmtree(place, ignore_errors=True)
        if left or root.exists():
            screen.print(f"left behind, now ended: {left} processes; {root}", style="red", markup=False)
        _raise_on_signals()


def _raise_on_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)


def _ignore_signals() -> None:
    """While things are stopped: an impatient second Ctrl-C must not leave them half stopped."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    screen.print(text, markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
