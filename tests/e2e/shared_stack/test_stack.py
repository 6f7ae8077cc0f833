"""`routebatch up` and `down` as a person uses them: what is killed comes back, and nothing is left behind."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil

from deploy.health import http_status, silent_workers
from deploy.layout import StateDir
from deploy.processes import PROCESSES, WORKERS
from tests.support.stack import RunningStack

NAMES = {"postgres", "valkey", *(process.name for process in PROCESSES)}


def eventually(holds: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_up_names_its_addresses_and_living_processes_in_a_private_file(stack: RunningStack) -> None:
    assert (stack.root / "stack.json").stat().st_mode & 0o777 == 0o600
    content = stack.file
    assert {"api_url", "api_key", "flower_url"} <= content.keys()
    assert set(content["processes"]) >= NAMES
    assert all(alive(pid) for pid in content["processes"].values())
    assert http_status(content["api_url"] + "/readyz") == 200
    assert http_status(content["api_url"] + "/v1/models") == 401
    assert http_status(content["api_url"] + "/v1/models", bearer=content["api_key"]) == 200


def test_flower_shows_the_workers_to_those_who_know_the_password(stack: RunningStack) -> None:
    content = stack.file
    url = content["flower_url"] + "/api/workers?refresh=1"
    assert http_status(url) == 401
    pair = f"{content['flower_user']}:{content['flower_password']}".encode()
    request = urllib.request.Request(url, headers={"Authorization": "Basic " + base64.b64encode(pair).decode()})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=20) as answer:
        workers = json.load(answer)
    assert {name.split("@")[0] for name in workers} == {worker.name for worker in WORKERS}


def test_up_refuses_a_directory_where_a_stack_runs(stack: RunningStack) -> None:
    done = stack.command("up", "--config", str(stack.config), "--port", "0", "--flower-port", "0", "--detach")
    assert done.returncode == 1
    assert "runs in" in done.stderr
    assert all(alive(pid) for pid in stack.processes.values())


def test_every_killed_process_comes_back(stack: RunningStack) -> None:
    before = stack.processes
    pools = [child for worker in WORKERS for child in psutil.Process(before[worker.name]).children()]
    for name in NAMES:
        os.kill(before[name], signal.SIGKILL)

    def all_back() -> bool:
        now = stack.processes
        return all(name in now and now[name] != before[name] and alive(now[name]) for name in NAMES)

    eventually(all_back)
    content = stack.file
    eventually(lambda: http_status(content["api_url"] + "/readyz") == 200)
    eventually(lambda: http_status(content["flower_url"] + "/healthcheck") == 200)
    eventually(lambda: not silent_workers(content["broker_url"], [worker.name for worker in WORKERS]))
    assert http_status(content["api_url"] + "/v1/models", bearer=content["api_key"]) == 200  # the data is still there
    eventually(lambda: not any(child.is_running() and alive(child.pid) for child in pools))


def test_doctor_finds_nothing_broken(stack: RunningStack) -> None:
    eventually(lambda: stack.processes.keys() >= NAMES)
    done = stack.command("doctor", "--config", str(stack.config), "--json")
    checks = json.loads(done.stdout)
    assert [check for check in checks if check["ok"] is False] == []
    assert done.returncode == 0
    assert {check["name"] for check in checks} >= NAMES | {"python", "configuration", "database", "broker", "disk"}


def test_nothing_outlives_its_supervisor_and_nothing_is_in_the_way_of_the_next_start(stack: RunningStack) -> None:
    key = stack.file["api_key"]
    sockets = StateDir(stack.root).sockets
    assert len(stack.living()) > len(NAMES)
    os.kill(stack.processes["supervisord"], signal.SIGKILL)
    eventually(lambda: stack.living() == [])
    with stack.in_foreground() as again:
        assert again["api_key"] == key
        assert http_status(again["api_url"] + "/v1/models", bearer=again["api_key"]) == 200
    assert stack.living() == []
    assert not (stack.root / "stack.json").exists()
    assert not sockets.exists()
    assert not (stack.root / "tmp").exists()


def test_a_start_that_fails_says_why_and_leaves_nothing_behind(tmp_path: Path) -> None:
    broken = tmp_path / "routebatch.toml"
    broken.write_text('[models.weak]\nname = "weak"\nno_such_key = 1\n')
    failing = RunningStack(tmp_path / "state", broken)
    done = failing.command("up", "--config", str(broken), "--port", "0", "--flower-port", "0", "--detach")
    assert done.returncode == 1
    assert "no_such_key" in done.stderr
    assert failing.living() == []
