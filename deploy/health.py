"""Is a process of the stack ready? Asked by `routebatch up`, and by compose.yaml: `python -m deploy.health NAME`."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable
from typing import Any

from deploy.processes import BEAT, FLOWER, WORKERS

TIMEOUT = 5.0
# the machine's proxy settings are not for talking to ourselves
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def http_status(url: str, *, bearer: str | None = None) -> int | None:
    """The status of a GET; None where nobody answers."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {bearer}"} if bearer else {})  # noqa: S310
    try:
        with _OPENER.open(request, timeout=TIMEOUT) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (urllib.error.URLError, OSError):
        return None


def silent_workers(broker_url: str, names: Iterable[str], timeout: float = 1.0) -> set[str]:
    """Those of our Celery workers on this host that do not answer a ping."""
    from celery.utils.nodenames import host_format
    from kombu.exceptions import OperationalError

    nodes = {host_format(f"{name}@%h"): name for name in names}
    app = _celery(broker_url)
    try:
        replies = app.control.ping(destination=list(nodes), timeout=timeout)
    except (OperationalError, OSError):
        return set(nodes.values())
    finally:
        app.close()
    return set(nodes.values()) - {nodes[node] for reply in replies for node in reply if node in nodes}


def _celery(broker_url: str) -> Any:
    from celery import Celery

    return Celery("health", broker=broker_url, set_as_current=False)


def broker_answers(broker_url: str) -> bool:
    """Whether the broker accepts a connection."""
    from kombu.exceptions import OperationalError

    try:
        with _celery(broker_url).connection_for_write(connect_timeout=TIMEOUT) as connection:
            connection.ensure_connection(max_retries=1, timeout=TIMEOUT)
    except (OperationalError, OSError):
        return False
    return True


def healthy(name: str) -> bool:
    """The same for one process of the stack, with its address taken from the environment it runs in."""
    broker_url = os.environ.get("ROUTEBATCH_BROKER_URL", "")
    if name in {worker.name for worker in WORKERS}:
        return not silent_workers(broker_url, [name], timeout=TIMEOUT)
    if name == BEAT.name:  # it has no door of its own: it does its work if it runs and reaches the broker
        return broker_answers(broker_url)
    if name == FLOWER.name:
        return http_status(f"http://127.0.0.1:{os.environ.get('FLOWER_PORT', '5555')}/healthcheck") == 200
    return http_status(f"http://127.0.0.1:{os.environ.get('ROUTEBATCH_API_PORT', '8080')}/readyz") == 200


if __name__ == "__main__":
    sys.exit(0 if healthy(sys.argv[1]) else 1)
