"""Progress of long work, told to whoever shows it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

# What a fit may tell: `with progress("epoch 1", total) as advance: advance(done)`
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


def silent(title: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Progress for nobody."""
    return nullcontext(lambda done: None)
