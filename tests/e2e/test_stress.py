"""Eight dispatch processes, killed at random, an upstream that errs, budgets that bind: the money is kept all the same.

`python -m benchmarks.chaos.stress` does the same with many more requests.
"""

from __future__ import annotations

import sys
from pathlib import Path

from routing_service.db import Database
from tests.support.chaos.stress import Stress, fight
from tests.support.chaos.stress_account import account

STRESS = Stress(requests=480, kills=5, seed=4, latency_ms=15, timeout_s=2.5, lease_s=2, seconds=240)


def test_kills_and_faults_lose_no_line_and_no_nano_dollar(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    sys.stdout.write(f"{STRESS}\n")  # shown if this fails
    fought = fight(database, database_url, tmp_path, STRESS)
    statement = account(database, fought.batch_ids, fought.bills)
    assert statement.wrong == []
    assert len(fought.kills) == STRESS.kills
    assert statement.causes["unknown: worker_lost"] > 0
    assert statement.attempts.keys() == {"usage", "estimated", "unknown", "refused"}
    assert statement.causes["line: budget_exhausted"] > 0  # a batch's budget bound
    assert fought.top_ups > 0  # and its key's
