"""The one error of this package: the stack cannot do what was asked, and the text says why and what to do."""

from __future__ import annotations


class StackError(Exception):
    """Its message is for the person at the terminal: it names the process or file, and may end in a log's tail."""
