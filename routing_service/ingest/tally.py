"""What is counted of a batch's lines while they pass: their faults, their sums, and which of them are duplicates."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import orjson

from routing_service.money.pricing import PriceBook, expected_nano, input_bound, output_bound, worst_case_nano
from routing_service.openai_format.line import Line, LineError, line_too_long, parse_line
from routing_service.settings import Settings


@dataclass
class Intake:
    """One batch's. `cheapest`: the first candidate's key; `dedupe`: the option of that name."""

    settings: Settings
    prices: PriceBook
    cheapest: str
    dedupe: str = "off"
    total: int = 0
    alias: str | None = None
    floor_nano: int = 0
    largest_worst_nano: int = 0
    error_count: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    seen: dict[bytes, int] = field(default_factory=dict)  # digests: custom ids may be long
    asked: dict[bytes, int] = field(default_factory=dict)  # the first line of each call that may serve several
    duplicates: int = 0
    priorities: set[int] = field(default_factory=set)

    def refuse(self, error: LineError, line: int | None = None) -> None:
        self.error_count += 1
        if len(self.errors) < self.settings.limits.max_listed_errors:
            entry = {"code": error.code, "message": error.message, "param": error.param, "line": line}
            self.errors.append(entry)

    def take(self, number: int, raw: bytes | None) -> tuple[Line, int | None]:
        """The checked line, and the earlier line that it is a duplicate of, if any. LineError where it is refused."""
        if raw is None:
            raise line_too_long(self.settings)
        if not raw:
            raise LineError("invalid_json_line", "The line is empty.")
        line = parse_line(raw, self.settings, self.dedupe)
        digest = blake2b(line.custom_id.encode(), digest_size=16).digest()
        earlier = self.seen.setdefault(digest, number)
        if earlier != number:
            message = f"The custom_id is already used on line {earlier}; each line needs its own."
            raise LineError("duplicate_custom_id", message, "custom_id")
        if self.alias is None:
            self.alias = line.alias
        if line.alias != self.alias:
            message = f"Every line of a batch names the same model; earlier lines name {self.alias!r}."
            raise LineError("mismatched_model", message, "body.model")
        return line, self._first(number, line)

    def _first(self, number: int, line: Line) -> int | None:
        """The earlier line that sends the same call on the same terms."""
        if line.call is None:
            return None
        terms = orjson.dumps([line.pinned, line.max_cost_nano])
        first = self.asked.setdefault(blake2b(line.call + terms, digest_size=16).digest(), number)
        return None if first == number else first

    def count(self, line: Line, first: int | None) -> int:
        """Add the line to the sums; returns what the cheapest model that may answer it will probably cost: nothing of
        a duplicate of line `first`."""
        self.priorities.add(line.priority)
        if first is not None:
            self.duplicates += 1
            return 0
        key = line.pinned or self.cheapest
        if key not in self.settings.models:  # of a continuation: it ends when it is claimed
            return 0
        model = self.settings.models[key]
        bound = input_bound(line.input_bytes, model)
        price = self.prices.price(key, bound)
        worst = worst_case_nano(price, bound, output_bound(line.output_cap, line.choices, model))
        expected = expected_nano(price, line.input_bytes, line.output_cap, line.choices, model)
        self.largest_worst_nano = max(self.largest_worst_nano, worst)
        self.floor_nano += expected
        return expected
