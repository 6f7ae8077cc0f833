"""What one sandbox is told at its start: where it listens, how slow and how faulty it is, whose answers it gives."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

FAULT_RATES = ("p429", "p500", "reset", "reset_after", "hang", "garbage", "no_usage")


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """Fault rates are probabilities per call; at most one fault strikes a call, so together they are at most 1."""

    host: str = "127.0.0.1"
    port: int = 0
    """0 picks a free port."""
    latency_ms: float = 50.0
    """Median time to an answer; 0 answers at once."""
    replay: Path | None = None
    """A CSV (or .csv.gz) of recorded answers; None answers our own word problems."""
    strong_model: str = "sandbox-strong"
    weak_model: str = "sandbox-weak"
    seed: int = 0
    p429: float = 0.0
    p500: float = 0.0
    reset: float = 0.0
    reset_after: float = 0.0
    hang: float = 0.0
    garbage: float = 0.0
    no_usage: float = 0.0
    judge_error: float = 0.05
    """Share of verdicts that are drawn by lot, of a judge's prompts."""
    judge_bias: float = 0.0
    """Share of verdicts on pairs that prefer what is shown first, whatever it is."""
    requests_per_minute: int | None = None
    """That each model lets through; None: any number. Beyond it calls are refused with 429."""
    tokens_per_minute: int | None = None
    billed: Path | None = None
    """A CSV file to write every billed call to."""

    def __post_init__(self) -> None:
        for chance in (self.judge_error, self.judge_bias):
            if not 0.0 <= chance <= 1.0:
                raise ValueError(f"a judge's error and bias must be between 0 and 1, but one is {chance}")
        rates = {field.name: getattr(self, field.name) for field in fields(self) if field.name in FAULT_RATES}
        for name, rate in rates.items():
            if not 0.0 <= rate <= 1.0:
                raise ValueError(f"{name} must be a probability between 0 and 1, not {rate}")
        if sum(rates.values()) > 1.0 + 1e-9:
            raise ValueError(f"the fault probabilities add up to more than 1: {rates}")
        if self.latency_ms < 0:
            raise ValueError(f"latency_ms must not be negative, but is {self.latency_ms}")
        for limit in (self.requests_per_minute, self.tokens_per_minute):
            if limit is not None and limit < 1:
                raise ValueError(f"a limit a minute must be at least 1, but is {limit}")
        if self.strong_model == self.weak_model:
            raise ValueError(f"the strong and the weak model must differ, but both are {self.strong_model!r}")

    def is_strong(self, model: str) -> bool | None:
        """True for the strong model, False for the weak one, None for a name that says neither."""
        if model == self.strong_model:
            return True
        if model == self.weak_model:
            return False
        name = model.lower()
        if "strong" in name or "gpt-4" in name:
            return True
        if "weak" in name or "mixtral" in name:
            return False
        return None
