"""Dispatch processes killed at random, an upstream that errs, budgets that bind: the money is kept all the same.

`python -m benchmarks.chaos.stress` does the same with many more requests.
"""

from __future__ import annotations

import sys
from pathlib import Path

from routing_service.db import Database
from tests.support.chaos.stress import Stress, fight
from tests.support.chaos.stress_account import account

SHORT = Stress(requests=320, kills=3, seed=4, processes=4, latency_ms=15, seconds=240)
LONG = Stress(requests=480, kills=5, seed=4, latency_ms=15, seconds=240)


def test_kills_and_faults_lose_no_line_and_no_nano_dollar(
    database: Database, database_url: str, tmp_path: Path, long_form: bool
) -> None:
    stress = LONG if long_form else SHORT
    sys.stdout.write(f"{stress}\n")  # shown if this fails
    fought = fight(database, database_url, tmp_path, stress)
    found = account(database, fought.batch_ids, fought.bills)
    assert found.wrong == []
    assert len(fought.kills) == stress.kills
    assert found.causes["line: budget_exhausted"] > 0  # a batch's budget bound
    assert fought.top_ups > 0  # and its key's
    if long_form:  # so many calls and kills that each way to end an attempt is met
        assert found.causes["unknown: worker_lost"] > 0
        assert found.attempts.keys() == {"usage", "estimated", "unknown", "refused"}
