"""`make demo`'s program: it answers everything under its budget, and leaves nothing behind, however it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from deploy.health import http_status
from tests.support.stack import RunningStack

LONGEST = 240  # on a busy machine


@contextmanager
def demo(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """The demo as a process; its temporary files are made under `directory`."""
    (directory / "tmp").mkdir()
    env = os.environ | {"TMPDIR": str(directory / "tmp")}
    with subprocess.Popen(
        [sys.executable, "-m", "demo.batch"],
        cwd=directory,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def left_behind(directory: Path) -> list[str]:
    """Processes that run on the directory's behalf, and what is left in its place for temporary files."""
    actual = [path.name for path in (directory / "tmp").iterdir()]
    for process in psutil.process_iter():
        try:
            marks = [*process.cmdline(), *process.environ().values()]
        except psutil.Error:
            continue
        if process.pid != os.getpid() and any(str(directory) in mark for mark in marks):
            actual.append(process.name())
    return actual


def test_beside_another_stack_it_answers_everything_within_its_budget_and_leaves_nothing_behind(
    stack: RunningStack, tmp_path: Path
) -> None:
    with demo(tmp_path) as process:
        output, _ = process.communicate(timeout=LONGEST)
    assert process.returncode == 0, output
    shown = dict(re.findall(r"│ ([\w -]+?) +│ (.+?) +│", output))
    assert shown["requests"] == "600"
    assert shown["errors"] == "0"
    assert 0 < float(shown["cost"][1:]) <= float(shown["budget"][1:])
    assert 100 < int(shown["to the strong model"].split()[0]) < 500
    lines = (tmp_path / "demo-results.jsonl").read_text().splitlines()
    assert len({json.loads(line)["custom_id"] for line in lines}) == 600
    assert left_behind(tmp_path) == []
    api_url = stack.file["api_url"]
    assert api_url not in output
    assert http_status(api_url + "/readyz") == 200


def test_interrupted_it_stops_what_it_has_started(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("bringing the database"):
                break
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=LONGEST)
    assert process.returncode == 130, output
    assert left_behind(tmp_path) == []
