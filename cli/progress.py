"""Progress of long work, on stderr and on terminals only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

Advance = Callable[[int], None]
Bars = Callable[[str, int], AbstractContextManager[Advance]]  # title, how much there is to do


@contextmanager
def spinner(text: str) -> Iterator[None]:
    """For work of which nobody knows how much there is."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


@contextmanager
def progress_bar(text: str, total: Callable[[], int]) -> Iterator[Advance]:
    """Gives a function that takes how many more are done. `total` is asked only where somebody sees the bar."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(text, total=total())
        yield lambda done: bar.advance(task, done)


@contextmanager
def progress_bars() -> Iterator[Bars]:
    """Bars one after another or within each other, for work of several steps: `with bars("reading", 9) as advance:`.

    A total of 0 means that nobody knows it. A bar is gone when its step is done.
    """
    if not sys.stderr.isatty():
        yield lambda title, total: nullcontext(_unseen)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    # A title may hold the name of a file: no markup.
    title = TextColumn("{task.description}", markup=False)
    columns = (title, BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as shown:

        @contextmanager
        def bar(title: str, total: int) -> Iterator[Advance]:
            task = shown.add_task(title, total=total or None)
            try:
                yield lambda done: shown.advance(task, done)
            finally:
                shown.refresh()
                shown.remove_task(task)

        yield bar


def _unseen(done: int) -> None:
    """Progress that nobody sees."""
