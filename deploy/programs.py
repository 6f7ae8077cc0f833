"""programs.json: how each process of a stack is launched. launch.py, which may import nothing of ours, reads it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from deploy.layout import write_private

LAUNCHER = Path(__file__).with_name("launch.py")


@dataclass(frozen=True)
class Program:
    """A command line and what launch.py does before it becomes that command.

    `argv[0]` is absolute; `lock` is a file the process holds while it lives; `uid` is whom root turns into;
    `death_signal` is sent when the parent dies (None: the process outlives it).
    """

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    lock: str | None = None
    uid: int | None = None
    death_signal: str | None = "TERM"


def write_programs(path: Path, programs: Mapping[str, Program]) -> None:
    """Write the table for launch.py."""
    write_private(path, json.dumps({name: asdict(program) for name, program in programs.items()}, indent=2) + "\n")


def launch_argv(programs_file: Path, name: str) -> list[str]:
    """The command that becomes program `name` of the table."""
    return [sys.executable, "-I", "-S", str(LAUNCHER), str(programs_file), name]
