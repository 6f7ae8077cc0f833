"""What goes wrong on purpose, how often, and which of it is billed.

    fault        what the client sees                         billed
    429          429 with Retry-After: 1                      no
    500          500                                          no
    reset        the connection is reset before any work      no
    reset_after  the work is done, then a reset               yes
    hang         no answer, ever                              yes
    garbage      200 with JSON that breaks off                yes
    no_usage     a whole answer that says no usage            yes

A client that disconnects while it waits for any billed answer has been billed all the same.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from enum import Enum
from math import log

from sandbox.config import SandboxConfig

JITTER = 0.25
"""Standard deviation of the logarithm of the latency: nine calls in ten within a factor of 1.5 of the median."""

# SO_LINGER on, for zero seconds: closing sends RST instead of an orderly FIN.
_LINGER_NONE = struct.pack("ii", 1, 0)


class Fault(Enum):
    TOO_MANY_REQUESTS = "429"
    SERVER_ERROR = "500"
    RESET = "reset"
    RESET_AFTER = "reset_after"
    HANG = "hang"
    GARBAGE = "garbage"
    NO_USAGE = "no_usage"


UNBILLED = frozenset({Fault.TOO_MANY_REQUESTS, Fault.SERVER_ERROR, Fault.RESET})


class FaultSource:
    """Draws at most one fault a call, and each call's latency, from generators seeded once."""

    def __init__(self, config: SandboxConfig) -> None:
        self._faults = random.Random(f"faults {config.seed}")
        self._latency = random.Random(f"latency {config.seed}")
        self._rates = (
            (Fault.TOO_MANY_REQUESTS, config.p429),
            (Fault.SERVER_ERROR, config.p500),
            (Fault.RESET, config.reset),
            (Fault.RESET_AFTER, config.reset_after),
            (Fault.HANG, config.hang),
            (Fault.GARBAGE, config.garbage),
            (Fault.NO_USAGE, config.no_usage),
        )
        self._log_median = log(config.latency_ms / 1000) if config.latency_ms else None

    def draw(self) -> Fault | None:
        point = self._faults.random()
        for fault, rate in self._rates:
            if point < rate:
                return fault
            point -= rate
        return None

    def latency(self) -> float:
        """Seconds until this call's answer."""
        if self._log_median is None:
            return 0.0
        return self._latency.lognormvariate(self._log_median, JITTER)


def reset_connection(transport: asyncio.Transport | None) -> None:
    """Reset the client's TCP connection; nothing happens if it is gone already."""
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
    transport.abort()
