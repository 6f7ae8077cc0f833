"""The part of `benchmarks.chaos` in which Postgres's disk is full for a while.

The database lies on a tmpfs of its own in a mount namespace of its own: nothing else can fill up, and nothing is
left mounted. The tmpfs is made as small as what it holds, and large again later. Postgres first refuses what needs
room; when its write-ahead log needs some, it goes down and cannot come back before there is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy.engine import make_url

from benchmarks.chaos.report import summary
from deploy.embedded import PostgresServer
from deploy.layout import private_dir, socket_dir
from tests.support.chaos.chaos import LOOK_S, Chaos, Endured, settle_accounts, submitting, troubled_stack
from tests.support.chaos.stress import read_bill
from tests.support.stack import RunningStack

ROOMY = "4g"
BEFORE_S, REFUSING_S, DOWN_S = 10.0, 15.0, 15.0
FULL = "No space left on device"
NAMESPACE = ("unshare", "--mount", *(() if os.geteuid() == 0 else ("--user", "--map-root-user")), "--")


def full_disk(chaos: Chaos) -> dict[str, Any]:
    """Run it in a namespace. Where none can be had, says so."""
    with tempfile.TemporaryDirectory(prefix="rb-bench-") as directory:
        probe = subprocess.run([*NAMESPACE, *_mount(Path(directory))], capture_output=True, text=True, check=False)
        if probe.returncode:
            return {"skipped": f"no tmpfs can be mounted here: {probe.stderr.strip()}"}
        command = [sys.executable, "-m", "benchmarks.chaos.disk", directory, json.dumps(asdict(chaos))]
        done = subprocess.run([*NAMESPACE, *command], stdout=subprocess.PIPE, text=True, check=True)
        made: dict[str, Any] = json.loads(done.stdout)
        return made


def _mount(volume: Path) -> list[str]:
    return ["mount", "-t", "tmpfs", "-o", f"size={ROOMY},mode=0755", "tmpfs", str(volume)]


def _inside(directory: Path, chaos: Chaos) -> dict[str, Any]:
    """The part itself."""
    volume, root = directory / "volume", private_dir(directory / "state")
    volume.mkdir()
    subprocess.run(_mount(volume), check=True)
    _move_database(root, volume)
    started = time.monotonic()
    with troubled_stack(directory, chaos) as (stack, bill):
        batches = submitting(stack, chaos, lambda stopped: _fill(stack, volume, stopped))
        endured = Endured(batches, read_bill(bill), [], time.monotonic() - started)
        made = summary(endured, settle_accounts(stack, chaos, endured))
        log = (root / "logs" / "postgres.log").read_text()
        refusals = log.count(FULL)
        _say(f"Postgres said {refusals} times: {FULL}; it went down {log.count('PANIC:')} times")
        if not refusals:
            made["wrong"].append("the disk never was full")
        return made


def _move_database(root: Path, volume: Path) -> None:
    """Make the cluster, then put it on the volume."""
    server = PostgresServer(root, socket_dir(root))
    server.prepare()
    subprocess.run(["cp", "-a", str(server.data), str(volume / "data")], check=True)
    subprocess.run(["rm", "-r", str(server.data)], check=True)
    server.data.symlink_to(volume / "data")


def _fill(stack: RunningStack, volume: Path, stopped: Callable[[], bool]) -> None:
    """Work, refuse, go down, and have room again."""
    _wait(BEFORE_S, stopped)
    used = os.statvfs(volume)
    pages = used.f_blocks - used.f_bfree
    _resize(volume, str(pages * used.f_frsize))
    _say(f"the disk is full at {pages * used.f_frsize / 2**20:.0f} MiB")
    _wait(REFUSING_S, stopped)
    _say("now the write-ahead log needs room")
    for _ in range(5):
        with suppress(psycopg.Error), _database(stack) as connection:
            connection.execute("select pg_switch_wal()")
            connection.execute("create temporary table t as select generate_series(1, 100000)")
    _wait(DOWN_S, stopped)
    _resize(volume, ROOMY)
    _say("the disk has room again")


def _resize(volume: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(volume)], check=True)


def _database(stack: RunningStack) -> psycopg.Connection[Any]:
    url = make_url(str(stack.file["database_url"]))
    return psycopg.connect(
        host=str(url.query["host"]), user=str(url.query["user"]), dbname=url.database, autocommit=True
    )


def _wait(seconds: float, stopped: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not stopped():
        time.sleep(LOOK_S)


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_inside(Path(sys.argv[1]), Chaos(**json.loads(sys.argv[2])))) + "\n")
