"""Progress: seen on terminals, silent elsewhere, and never in the way of the work."""

from __future__ import annotations

import io
import sys

import pytest

from cli.progress import progress_bars


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_how_far_each_step_is(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress_bars() as bars:
        with bars("reading [/odd].csv", 200) as advance:
            advance(50)
        with bars("fitting", 0) as outer, bars("epoch 1", 8) as inner:
            outer(3)
            inner(8)
    shown = terminal.getvalue()
    assert "reading [/odd].csv" in shown
    assert "25%" in shown
    assert "fitting" in shown
    assert "100%" in shown


def test_a_step_that_fails_ends_its_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bars() as bars:
        with pytest.raises(ZeroDivisionError), bars("fitting", 2):
            raise ZeroDivisionError
        with bars("again", 2) as advance:
            advance(2)


def test_a_file_or_a_pipe_sees_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as bars, bars("reading", 2) as advance:
        advance(2)
    assert capsys.readouterr().err == ""
