"""The house rules that no linter holds: folders and modules that a newcomer can find their way in."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.support.paths import ROOT

PACKAGES = (
    "routing_service",
    "workers",
    "training",
    "cli",
    "migrations",
    "sandbox",
    "deploy",
    "demo",
    "benchmarks",
    "tests",
)
TESTS = ("tests.unit", "tests.integration", "tests.e2e")
MOST_MODULES = 20  # in a folder, its __init__ aside
MOST_LINES = 600  # of a module
MOST_LINES_OF_A_FUNCTION = 60
GENERATED = ROOT / "migrations" / "versions"  # history, which grows and is never rewritten


def modules() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted(path for path in (ROOT / package).rglob("*.py") if path.parent != GENERATED)


@cache
def trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in modules()}


def test_every_package_of_the_project_is_looked_at() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/*.py") if not path.parent.name.startswith((".", "build"))}
    assert packages == set(PACKAGES)


def test_no_folder_holds_more_modules_than_one_can_take_in() -> None:
    sizes = Counter(path.parent for path in modules() if path.name != "__init__.py")
    assert {str(folder): size for folder, size in sizes.items() if size > MOST_MODULES} == {}


def test_no_module_is_longer_than_one_subject() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules()}
    assert {str(path): length for path, length in lengths.items() if length > MOST_LINES} == {}


def test_every_module_says_what_it_is_for() -> None:
    """But for the empty files that make test folders packages."""
    silent = [path for path, tree in trees().items() if not ast.get_docstring(tree)]
    assert [str(path) for path in silent if path.name != "__init__.py" or "tests" not in path.parts] == []


def test_no_function_is_too_long_to_see_at_once() -> None:
    lengths = {
        f"{path}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: length for name, length in lengths.items() if length > MOST_LINES_OF_A_FUNCTION} == {}


def test_tests_share_by_the_support_package_and_not_by_importing_each_other() -> None:
    borrowed = [
        f"{path.relative_to(ROOT)}: {node.module}"
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(TESTS)
    ]
    assert borrowed == []
