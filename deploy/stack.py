"""`routebatch up` and `routebatch down`: start a state directory's stack in order, wait until it works, stop it."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from deploy import health
from deploy.embedded import NOT_READY, PostgresServer, Server
from deploy.layout import StackError, StateDir, locked, remove_sockets
from deploy.processes import API, FLOWER, MIGRATE, PROCESSES, WORKERS, resolve
from deploy.stack_spec import Options, StackSpec, make_spec
from deploy.supervisor import Supervisor, end_orphans

Say = Callable[[str], None]

READY_SECONDS = 180  # a small and busy machine included; usually it is a few, and a crash is seen at once
SERVER_SECONDS = 120  # a database may have a crash to recover from
# Restarts while we wait. A server may have to wait for its killed predecessor's children; what ours need is there.
SERVER_RESTARTS, OUR_RESTARTS = 2, 0
# supervisord stops groups one after the other, each within its own limit
STOP_SECONDS = float(sum(process.stop_seconds for process in PROCESSES) + 60)
KEY_NAME = "stack"


def up(options: Options, say: Say) -> tuple[Stack, dict[str, Any]]:
    """Start a stack; returns it with what its stack.json says."""
    state = StateDir.make(options.state_dir)
    with starting(state):
        if ended := end_orphans(state.root):
            say(f"ended {ended} processes that an earlier stack had left behind")
        stack = Stack(state, make_spec(options, state))
        return stack, stack.start(foreground=not options.detach, say=say)


def down(state_dir: Path | None) -> bool:
    """Stop the stack of a state directory; False where none ran."""
    state = StateDir.at(state_dir)
    return state.root.is_dir() and stop(state)


def stop(state: StateDir) -> bool:
    """Stop what runs in a state directory, in order, and then whatever is left; False where nothing ran."""
    supervisor = Supervisor(state)
    ran = supervisor.running
    supervisor.stop(STOP_SECONDS)
    ran = end_orphans(state.root) > 0 or ran
    state.stack_file.unlink(missing_ok=True)
    remove_sockets(state.root)
    shutil.rmtree(state.temporary, ignore_errors=True)
    return ran


@contextlib.contextmanager
def starting(state: StateDir) -> Any:
    """Hold the directory while a stack is started in it; refuse one where a stack runs."""
    with locked(state.root / "up.lock", wait=False) as free:
        if not free:
            raise StackError(f"another `routebatch up` is starting a stack in {state.root}")
        if Supervisor(state).running:
            url = state.read_stack().get("api_url", "")
            raise StackError(f"a stack runs in {state.root} already ({url}); stop it with `routebatch down`")
        yield


class Stack:
    """A stack in the course of being started, or running."""

    def __init__(self, state: StateDir, spec: StackSpec) -> None:
        self.state = state
        self.spec = spec
        self.supervisor = Supervisor(state)

    def start(self, *, foreground: bool, say: Say) -> dict[str, Any]:
        """Bring everything up; returns what stack.json says. On failure everything is stopped again."""
        for server in self.spec.servers:
            server.prepare()
        self.state.stack_file.unlink(missing_ok=True)
        self.state.update_stack(**self.spec.addresses(), processes={})
        try:
            self.supervisor.start(self.spec.entries, self.spec.env, foreground=foreground)
            for server in self.spec.servers:
                say(f"starting {server.name}")
                self.supervisor.start_group(server.name)
            for server in self.spec.servers:
                self._wait_server(server)
            say("bringing the database's schema up to date")
            self._run_once(MIGRATE.name, MIGRATE.argv)
            say(f"starting {', '.join(process.name for process in self.spec.processes)}")
            for group in dict.fromkeys(process.group for process in self.spec.processes):
                self.supervisor.start_group(group)
            self._wait_processes()
            key = self._api_key()
            return self.state.update_stack(api_key=key, processes=self.supervisor.pids())
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop everything in order."""
        stop(self.state)

    def _wait_server(self, server: Server) -> None:
        def answers() -> bool:
            try:
                server.check()
                if isinstance(server, PostgresServer):
                    server.create_database()
            except NOT_READY:
                return False
            return True

        self._wait(lambda: set() if answers() else {server.name}, [server.name], SERVER_SECONDS, SERVER_RESTARTS)

    def _wait_processes(self) -> None:
        waiting = {API.name, FLOWER.name, *(worker.name for worker in WORKERS)}

        def not_ready() -> set[str]:
            if API.name in waiting and health.http_status(f"{self.spec.api_url}/readyz") == 200:
                waiting.remove(API.name)
            if FLOWER.name in waiting and health.http_status(f"{self.spec.flower_url}/healthcheck") == 200:
                waiting.remove(FLOWER.name)
            workers = {worker.name for worker in WORKERS} & waiting
            if workers:
                waiting.difference_update(workers - health.silent_workers(self.spec.broker_url, workers, timeout=0.5))
            return waiting

        self._wait(not_ready, [process.name for process in self.spec.processes], READY_SECONDS, OUR_RESTARTS)

    def _wait(self, not_ready: Callable[[], Collection[str]], names: list[str], seconds: float, restarts: int) -> None:
        """Until nothing is `not_ready`; StackError with a log's tail where one of `names` keeps ending or is late."""
        ends: dict[str, set[int]] = {name: set() for name in names}
        deadline = time.monotonic() + seconds
        while True:
            late = not_ready()
            info = self.supervisor.info()
            for name in names:
                ends[name] |= {info[name]["stop"]} - {0}
                if len(ends[name]) > restarts:
                    raise StackError(self._with_log(f"{name} does not stay up", name))
            if not late and all(info[name]["pid"] for name in names):
                return
            if time.monotonic() > deadline:
                name = sorted(late or names)[0]
                raise StackError(self._with_log(f"{name} was not ready after {seconds:.0f} s", name))
            time.sleep(0.1)

    def _with_log(self, problem: str, name: str) -> str:
        return f"{problem}; the end of {self.state.log(name)}:\n{self.state.log_tail(name)}"

    def _run_once(self, name: str, argv: tuple[str, ...]) -> None:
        """Run a command of ours to its end, its output in a log of its own."""
        with self.state.log(name).open("wb") as log:
            done = subprocess.run(
                resolve(argv),
                env=self.spec.env,
                cwd=self.state.root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
            )
        if done.returncode != 0:
            raise StackError(self._with_log(f"{name} failed with exit code {done.returncode}", name))

    def _api_key(self) -> str:
        """The stack's own API key: that of an earlier start if the API still knows it, else a new one."""
        stored = self.state.read_secrets()
        key = stored.get("api_key")
        if key and health.http_status(f"{self.spec.api_url}/v1/models", bearer=key) != 401:
            return key
        done = subprocess.run(
            resolve(("routebatch", "keys", "create", "--name", KEY_NAME, "--json")),
            env=self.spec.env,
            cwd=self.state.root,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise StackError(f"no API key could be made:\n{done.stderr.strip()}")
        new_key = str(json.loads(done.stdout.strip().splitlines()[-1])["key"])
        self.state.write_secrets(stored | {"api_key": new_key})
        return new_key
