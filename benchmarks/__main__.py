"""`python -m benchmarks` lists every benchmark, with what it measures."""

from __future__ import annotations

import ast
from pathlib import Path

from rich.console import Console
from rich.table import Table


def listed() -> Table:
    """Every module here that can be run, by the first sentence of its docstring."""
    table = Table("python -m", "measures")
    root = Path(__file__).parent
    for path in sorted(root.glob("*/*.py")):
        source = path.read_text(encoding="utf-8")
        if "argparse" in source:
            says = ast.get_docstring(ast.parse(source)) or ""
            module = ".".join(("benchmarks", *path.relative_to(root).with_suffix("").parts)).removesuffix(".__main__")
            table.add_row(module, " ".join(says.partition("\n\n")[0].split()))
    return table


if __name__ == "__main__":
    Console(width=120).print(listed())
