"""What a command's help ends with: examples as one would type them, and what the exit codes mean."""

from __future__ import annotations

VERBATIM = "\b"  # click leaves a paragraph below this sign as it is


def epilog(*examples: str, codes: str | None = None) -> str:
    """`codes`: a sentence, for commands whose exit codes mean more than done, failed and wrong usage."""
    parts = ["\n".join([VERBATIM, "Examples:", *(f"  {example}" for example in examples)])] if examples else []
    return "\n\n".join([*parts, *([codes] if codes else [])])
