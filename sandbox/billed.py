"""The bill in single calls: a CSV file that grows by a line whenever a call is billed.

It is the account that `routebatch ledger reconcile --billed` reads. Its last column is the X-Client-Request-Id that the
call came with, by which every line can be held against the call's own record at the client.
"""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path

COLUMNS = ("model", "day", "input_tokens", "output_tokens", "client_request_id")
MOST_ID = 512  # characters, as OpenAI has it


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
