"""The new method of docs/howto/add-a-routing-method.md: two modules and two lines are all that the commands need."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from cli.main import main
from routing_service.routers import registry
from tests.support.paths import ROOT
from training.fit import methods

PAGE = (ROOT / "docs" / "howto" / "add-a-routing-method.md").read_text(encoding="utf-8")
NAMES = ("routing_service.routers.length", "training.fit.length")


@pytest.fixture(autouse=True)
def _modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = [block.split("```")[0] for block in PAGE.split("```python\n")[1:]]
    for name, code in zip(NAMES, blocks, strict=True):
        module = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(code, name, "exec"), module.__dict__)
    monkeypatch.setitem(registry.METHODS, "length", "routing_service.routers.length:LengthRouter")
    monkeypatch.setitem(methods.METHODS, "length", "training.fit.length:LengthOptions")


def test_the_documented_registration_lines_are_those_that_the_commands_read() -> None:
    assert '"length": "routing_service.routers.length:LengthRouter",' in PAGE
    assert '"length": "training.fit.length:LengthOptions",' in PAGE


def test_it_is_fitted_scored_calibrated_and_explained_by_the_commands() -> None:
    rows = [f"{'why ' * (n % 7 + 1)},{int(n % 7 > 3)},0\n" for n in range(70)]
    Path("labels.csv").write_text("prompt,strong_correct,weak_correct\n" + "".join(rows))
    Path("in.txt").write_text("why\n" + "why " * 9 + "\n")
    runner = CliRunner()
    train = ["train", "length", "--comparisons", "labels.csv", "--set", "steepness=3", "--output", "length"]
    assert runner.invoke(main, train).exit_code == 0
    scored = runner.invoke(main, ["score", "in.txt", "--router", "length"])
    short, long = (float(row["win_rate"]) for row in csv.DictReader(scored.stdout.splitlines()))
    assert short < 0.5 < long
    on = ["calibrate", "--router", "length", "--on", "in.txt", "--strong-share", "0.5", "--json"]
    (actual,) = json.loads(runner.invoke(main, on).stdout)["thresholds"]
    assert short < actual["threshold"] <= long
    explained = json.loads(
        runner.invoke(main, ["explain", "--router", "length", "--prompt", "why not", "--json"]).stdout
    )
    assert explained["router"] == "length"
