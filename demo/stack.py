"""What demos run on: a sandbox upstream and a stack in a temporary state directory, commands run as a person would.

Everything is stopped and removed when the block ends, whatever the end is.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any

from rich.console import Console

from deploy.isolation import foreign_dir, isolation
from deploy.layout import StackError, StateDir
from deploy.processes import resolve
from deploy.stack import stop
from deploy.supervisor import end_orphans

STOP_SECONDS = 60
KEPT = ("ROUTEBATCH_POSTGRES_BIN", "ROUTEBATCH_VALKEY_SERVER")
CONFIG = """\
[models.strong]
name = "sandbox-strong"
base_url = "{url}"
input_usd_per_million = 10.0
output_usd_per_million = 30.0
max_output_tokens = {most}
expected_output_tokens = {expected}

[models.weak]
name = "sandbox-weak"
base_url = "{url}"
input_usd_per_million = 0.15
output_usd_per_million = 0.6
max_output_tokens = {most}
expected_output_tokens = {expected}

[routing]
candidates = ["weak", "strong"]
"""

screen = Console(stderr=True, highlight=False)


class DemoError(Exception):
    """The demo cannot go on."""


class Demo:
    """A stack that is up; `state` is its directory."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def run(self, *arguments: str, allowed: tuple[int, ...] = (0,), json_wanted: bool = True) -> Any:
        """Run a command as a person would; its last line of output as JSON."""
        argv = resolve(("routebatch", *arguments))
        with _process(argv, _environment(self.state)) as process:
            output, _ = process.communicate()
            if process.returncode not in allowed:
                raise DemoError(f"`routebatch {arguments[0]}` ended with exit code {process.returncode}")
        return json.loads(output.strip().splitlines()[-1]) if json_wanted else None

    def operate(self, *arguments: str, allowed: tuple[int, ...] = (0,)) -> Any:
        """Run an operator's command of this stack."""
        return self.run(*arguments, "--state-dir", str(self.state), allowed=allowed)


def run_demo(show: Callable[[], None]) -> int:
    """Run what a demo shows, and tell what went wrong; the exit code."""
    _raise_on_signals()
    try:
        show()
    except (DemoError, StackError, OSError) as error:
        screen.print(f"the demo failed: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        say("interrupted; everything is stopped")
        return 130
    return 0


@contextmanager
def running(*sandbox: str, settings: str = "", output_tokens: tuple[int, int] = (20, 128)) -> Iterator[Demo]:
    """A stack in front of a simulated upstream (`sandbox`: its options), configured by CONFIG and `settings`.

    `output_tokens`: how many an answer is expected to take, and how many it may.
    """
    with _state_dir() as state, _sandbox(*sandbox) as url:
        config = state / "routebatch.toml"
        expected, most = output_tokens
        config.write_text(CONFIG.format(url=url, expected=expected, most=most) + settings)
        demo = Demo(state)
        ports = ("--port", "0", "--flower-port", "0")
        up = demo.operate("up", "--config", str(config), *ports, "--detach", "--json")
        say(f"the stack is ready: API {up['api_url']}, Flower {up['flower_url']}")
        yield demo


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
def _sandbox(*options: str) -> Iterator[str]:
    """The simulated upstream; yields its base URL."""
    with _process(resolve(("routebatch", "sandbox", "--port", "0", *options)), dict(os.environ)) as process:
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
        say("stopping everything")
        stop(state)
        orphans = end_orphans(root)
        sockets, uid = state.sockets, isolation().uid
        for place in (sockets, root, foreign_dir(root, uid) if uid is not None else root):
            shutil.rmtree(place, ignore_errors=True)
        if orphans or root.exists():
            screen.print(f"left behind, now ended: {orphans} processes; {root}", style="red", markup=False)
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


def say(text: str) -> None:
    screen.print(text, markup=False, soft_wrap=True)
