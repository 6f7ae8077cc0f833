"""The sandbox's own account, the other side's bill to hold a ledger against: what it was asked, answered and billed.

`Stats` are the totals, which `GET /stats` shows; tokens are counted when a call is billed, answered or not.
`BilledFile` is the bill in single calls, a CSV file that `routebatch ledger reconcile --billed` reads. Its last column
is the X-Client-Request-Id that the call came with, by which each line is held against the client's own record.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sandbox.faults import Fault

COLUMNS = ("model", "day", "input_tokens", "output_tokens", "client_request_id")
MOST_ID = 512  # characters, as OpenAI has it


@dataclass(slots=True)
class ModelStats:
    calls: int = 0
    limited: int = 0
    """Refused by a limit a minute."""
    answered: int = 0
    billed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(slots=True)
class Stats:
    calls: int = 0
    """Every POST to the chat endpoint, refused ones included."""
    models: defaultdict[str, ModelStats] = field(default_factory=lambda: defaultdict(ModelStats))
    faults: Counter[Fault] = field(default_factory=Counter)
    max_repeats: int = 0
    repeated: int = 0
    _seen: dict[int, int] = field(default_factory=dict)

    def bill(self, model: str, prompt: bytes, input_tokens: int, output_tokens: int) -> None:
        """Charge one call; `prompt` is its serialised messages."""
        account = self.models[model]
        account.billed += 1
        account.input_tokens += input_tokens
        account.output_tokens += output_tokens
        # The 64-bit hash instead of the prompt keeps a million prompts small.
        key = hash(prompt)
        times = self._seen.get(key, 0) + 1
        self._seen[key] = times
        self.max_repeats = max(self.max_repeats, times)
        if times == 2:
            self.repeated += 1

    def as_json(self) -> dict[str, Any]:
        return {
            "calls": self.calls,
            "models": {name: asdict(account) for name, account in self.models.items()},
            "faults": {fault.value: self.faults[fault] for fault in Fault},
            "seen": {"max_repeats": self.max_repeats, "repeated": self.repeated},
        }


class BilledFile:
    """Each line is written out at once: what was billed stands there even if the sandbox is killed."""

    def __init__(self, path: Path) -> None:
        """Begin the file anew. Raises OSError where it cannot be written."""
        self._file = path.open("w", encoding="utf-8", newline="", buffering=1)
        self._lines = csv.writer(self._file, lineterminator="\n")
        self._lines.writerow(COLUMNS)

    def add(self, model: str, input_tokens: int, output_tokens: int, client_request_id: str) -> None:
        day = datetime.now(UTC).date().isoformat()
        self._lines.writerow((model, day, input_tokens, output_tokens, client_request_id[:MOST_ID]))

    def close(self) -> None:
        self._file.close()
