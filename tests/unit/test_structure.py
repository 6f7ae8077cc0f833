"""The rules of CONTRIBUTING.md that a program can see: how large folders, modules and functions may be."""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.support.paths import ROOT

MODULES_IN_A_FOLDER, LINES_OF_A_MODULE, LINES_OF_A_FUNCTION = 20, 600, 60
MIGRATIONS = ROOT / "migrations" / "versions"  # one for each change of the schema: they only ever become more


def packages() -> list[Path]:
    """The folders that mypy is told of: all of ours."""
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return [ROOT / name for name in configuration["tool"]["mypy"]["files"]]


MODULES = [path for folder in packages() for path in sorted(folder.rglob("*.py")) if path.parent != MIGRATIONS]
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_a_folder_holds_few_enough_modules_to_be_seen_at_a_glance() -> None:
    sizes = Counter(name(path.parent) for path in MODULES if path.name != "__init__.py")
    assert len(sizes) > 20
    assert {folder: size for folder, size in sizes.items() if size > MODULES_IN_A_FOLDER} == {}


def test_a_module_is_short_enough_to_be_read() -> None:
    lines = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {module: length for module, length in lines.items() if length > LINES_OF_A_MODULE} == {}


def test_a_function_is_short_enough_to_be_seen_at_once() -> None:
    lengths = {
        f"{name(path)}: {function.name}": (function.end_lineno or 0) - function.lineno + 1
        for path, tree in TREES.items()
        for function in functions(tree)
    }
    assert {function: length for function, length in lengths.items() if length > LINES_OF_A_FUNCTION} == {}


def test_a_module_says_what_it_is_for() -> None:
    """Folders of tests mirror those of the source, which say it."""
    silent = [name(path) for path, tree in TREES.items() if not ast.get_docstring(tree)]
    assert [module for module in silent if not (module.startswith("tests/") and module.endswith("__init__.py"))] == []


def test_a_test_module_imports_nothing_from_another() -> None:
    """What tests share stands in tests/support."""
    shared = [
        f"{name(path)} imports {node.module}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith(("tests.unit", "tests.integration", "tests.e2e"))
    ]
    assert shared == []
