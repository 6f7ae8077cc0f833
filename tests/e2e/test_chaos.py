"""The whole stack, struck at random wherever it can be struck, before an upstream of which a fifth of the calls fails.

`python -m benchmarks.chaos` does the same for minutes, and lets the database's disk fill up.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.chaos.chaos import Chaos, endure, settle_accounts, troubled_stack
from tests.support.chaos.strikes import TARGETS

SHORT = Chaos(seed=4, rounds=1, round_s=10, rest_s=60, lines=80)
LONG = Chaos(seed=4, rounds=2, round_s=25, rest_s=60)


def test_whatever_is_struck_every_request_ends_exactly_once_and_the_money_is_kept(
    tmp_path: Path, long_form: bool
) -> None:
    chaos = LONG if long_form else SHORT
    sys.stdout.write(f"{chaos}\n")  # shown if this fails
    with troubled_stack(tmp_path, chaos) as (stack, bill):
        endured = endure(stack, bill, chaos, lambda said: sys.stdout.write(f"{said}\n"))
        statement = settle_accounts(stack, chaos, endured)
    assert statement.wrong == []
    assert {strike.target for strike in endured.strikes} == set(TARGETS)
    assert statement.attempts["unknown"] > 0
    lines, answered = (sum(getattr(batch, name) for batch in statement.batches) for name in ("lines", "answered"))
    assert answered >= 0.8 * lines > 0
