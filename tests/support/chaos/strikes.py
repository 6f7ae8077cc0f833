"""Strikes against a running stack: its processes killed, frozen or told to end, its broker emptied.

Only processes below the stack's own supervisord are ever signalled. What supervisord restarts is left to it; where
supervisord itself was struck, the stack is started again as a person would.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psutil
import redis

from deploy.layout import StackError, StateDir
from deploy.processes import PROCESSES
from deploy.supervisor import DAEMON, LISTENER, Supervisor
from routing_service.upstream.limiter import redis_url
from tests.support.stack import RunningStack

POSTGRES, BROKER = "postgres", "valkey"
TARGETS = (POSTGRES, BROKER, *(process.name for process in PROCESSES), LISTENER, DAEMON)
ACTIONS = ("kill all of", "kill the head of", "kill a child of", "freeze", "end")
FLUSH = "empty"
FROZEN_S = (0.5, 6.0)
"""Some are frozen for less than a lease, some for longer."""


@dataclass(frozen=True)
class Strike:
    """What was done, to which process, at which second."""

    second: float
    action: str
    target: str


def strikes(number: int) -> list[tuple[str, str]]:
    """Actions and targets of a round: every target once, and the broker emptied once. Within as many rounds as there
    are actions, each target suffers each of them."""
    struck = [(ACTIONS[(number + place) % len(ACTIONS)], target) for place, target in enumerate(TARGETS)]
    return [*struck, (FLUSH, BROKER)]


class Striker:
    """Strikes one stack. `heal` wakes whoever still sleeps."""

    def __init__(self, stack: RunningStack, rng: random.Random) -> None:
        self._stack, self._rng = stack, rng
        self._supervisor = Supervisor(StateDir.at(stack.root))
        self._frozen: list[tuple[float, list[psutil.Process]]] = []
        self._started = time.monotonic()
        self.done: list[Strike] = []

    def strike(self, action: str, target: str) -> bool:
        """Do it. False where the target is not there at the moment."""
        self.wake()
        second = round(time.monotonic() - self._started, 1)
        if action == FLUSH:
            struck = self._empty_broker()
        elif (process := self._process(target)) is None:
            struck = False
        else:
            struck = True
            self._strike(action, process, target)
            if target == DAEMON:
                self._start_again(action)
        if struck:
            self.done.append(Strike(second, action, target))
        return struck

    def wake(self, *, all_of_them: bool = False) -> None:
        """Let those go on whose time is over."""
        now = time.monotonic()
        for until, processes in self._frozen:
            if all_of_them or now >= until:
                _each(processes, psutil.Process.resume)
        self._frozen = [] if all_of_them else [sleeping for sleeping in self._frozen if now < sleeping[0]]

    def missing(self) -> set[str]:
        """Targets that do not run at the moment."""
        return {target for target in TARGETS if self._process(target) is None}

    def _strike(self, action: str, process: psutil.Process, target: str) -> None:
        family = _family(process)
        if action == "kill all of":
            _each(family, psutil.Process.kill)
        elif action == "kill the head of":
            _each(family[:1], psutil.Process.kill)
        elif action == "kill a child of":
            _each([self._rng.choice(family[1:] or family)], psutil.Process.kill)
        elif action == "freeze":
            if target == DAEMON:
                family = family[:1]  # its children have their own turns
            _each(family, psutil.Process.suspend)
            self._frozen.append((time.monotonic() + self._rng.uniform(*FROZEN_S), family))
        else:
            number = signal.SIGINT if target == POSTGRES else signal.SIGTERM
            _each(family[:1], lambda one: one.send_signal(number))

    def _start_again(self, action: str) -> None:
        """Whoever is without a supervisor gets one: at once after a kill, in order after an end."""
        if action == "freeze":
            time.sleep(self._rng.uniform(*FROZEN_S))
            self.wake(all_of_them=True)
        elif action == "end":
            self.wake(all_of_them=True)  # who sleeps is not ended in order
            self._stack.down()
            self._stack.up()
        elif action != "kill a child of":
            self._stack.up()

    def _process(self, target: str) -> psutil.Process | None:
        try:
            pids = self._supervisor.pids()
            daemon = psutil.Process(pids[DAEMON])
            if target == DAEMON:
                return daemon
            children = daemon.children()
            if target == LISTENER:
                return next((child for child in children if "deploy.listener" in child.cmdline()), None)
            return next((child for child in children if child.pid == pids.get(target)), None)
        except (StackError, psutil.Error):
            return None

    def _empty_broker(self) -> bool:
        url = redis_url(str(self._stack.file["broker_url"]))
        assert url
        try:
            with redis.Redis.from_url(url, socket_timeout=1) as broker:
                broker.flushall()
        except (redis.RedisError, OSError):
            return False
        return True


def _family(process: psutil.Process) -> list[psutil.Process]:
    """The process, then all below it."""
    with suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return [process]


def _each(processes: list[psutil.Process], signalled: Callable[[psutil.Process], None]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            signalled(process)
