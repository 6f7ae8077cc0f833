"""The sandbox's own account: what it was asked, what it answered, what it billed. `GET /stats` shows it.

It is the other side's bill, to hold a ledger against: tokens are counted when a call is billed, answered or not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any

from sandbox.faults import Fault


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
