"""A whole stack as processes, for e2e tests: started, asked, stopped."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from deploy.layout import StateDir
from deploy.processes import resolve
from deploy.supervisor import Supervisor, orphaned_processes

COMMAND = resolve(("routebatch",))


class RunningStack:
    """A detached stack with free ports, and the addresses that `up` printed."""

    def __init__(self, root: Path, config: Path) -> None:
        self.root = root
        self.config = config

    def command(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments, "--state-dir", str(self.root)],
            env=os.environ | env,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def up(self) -> dict[str, str]:
        ports = ["--port", "0", "--flower-port", "0"]
        done = self.command("up", "--config", str(self.config), *ports, "--detach", "--json")
        assert done.returncode == 0, done.stderr
        printed = json.loads(done.stdout.splitlines()[-1])
        assert isinstance(printed, dict)
        return printed

    @contextmanager
    def in_foreground(self) -> Iterator[dict[str, str]]:
        """The same, stopped by a SIGTERM to the command."""
        argv = [*COMMAND, "up", "--state-dir", str(self.root), "--config", str(self.config)]
        argv += ["--port", "0", "--flower-port", "0", "--json"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            try:
                yield json.loads(process.stdout.readline())
            finally:
                process.terminate()
            assert process.wait(60) == 0

    def down(self) -> None:
        done = self.command("down")
        assert done.returncode == 0, done.stderr

    @property
    def running(self) -> bool:
        return Supervisor(StateDir.at(self.root)).running

    @property
    def file(self) -> dict[str, Any]:
        content = json.loads((self.root / "stack.json").read_text())
        assert isinstance(content, dict)
        return content

    @property
    def processes(self) -> dict[str, int]:
        actual = self.file["processes"]
        assert isinstance(actual, dict)
        return actual

    def living(self) -> list[psutil.Process]:
        """Every process of this stack: marked by its environment, or named by the state directory."""
        named = []
        for process in psutil.process_iter(["cmdline", "status"]):
            words = process.info["cmdline"] or []
            if process.info["status"] != psutil.STATUS_ZOMBIE and any(str(self.root) in word for word in words):
                named.append(process)
        return named + orphaned_processes(self.root)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A client or operator command that finds this stack by its state directory."""
        env = os.environ | {"ROUTEBATCH_STATE_DIR": str(self.root)}
        return subprocess.run([*COMMAND, *arguments], env=env, capture_output=True, text=True, timeout=120, check=False)
