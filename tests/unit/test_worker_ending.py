"""A worker that failed ends, even if what it waits for never comes."""

from __future__ import annotations

import subprocess
import sys

import pytest

WAITS_FOR_EVER = """
import threading
from types import SimpleNamespace
from workers import ending
ending.SPARE_S = -ending.get_settings().dispatch.grace_s + 0.1
ending.EndAfterFailure(SimpleNamespace(steps=[])).close(SimpleNamespace(exitcode={code}))
threading.Event().wait({seconds})
"""


@pytest.mark.parametrize(("code", "seconds", "ends_with"), [(1, 60, 1), (None, 0.5, 0), (0, 0.5, 0)])
def test_a_worker_ends_by_force_only_after_it_failed(code: int | None, seconds: float, ends_with: int) -> None:
    program = WAITS_FOR_EVER.format(code=code, seconds=seconds)
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=50).returncode == ends_with
