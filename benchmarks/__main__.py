"""`make bench`: runs what needs no data of its own, and lists every benchmark with what it measures."""

from __future__ import annotations

import ast
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import scale


def listed() -> Table:
    """Every module here that can be run, by the first line of its docstring."""
    table = Table("python -m", "measures")
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        source = path.read_text(encoding="utf-8")
        if "argparse" in source:
            says = ast.get_docstring(ast.parse(source)) or ""
            table.add_row(f"benchmarks.{path.stem}", " ".join(says.partition("\n\n")[0].split()))
    return table


if __name__ == "__main__":
    Console(width=120).print(listed())
    scale.main()
