"""`routebatch evaluate` and `similarity`, and `train --decontaminate`: small tables in, figures out.

A router that was fitted on the rows that measure it is named, and so is one of which that is not known.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cli.evaluate.evaluate import SETS
from cli.evaluate.run import known
from cli.main import main
from routing_service.routers.registry import DEFAULT_ARTIFACT, Router
from tests.support.routers.labelled import lines, table
from tests.support.routers.tiny_encoder import write_encoder
from training.evaluate.benchmark_sets import BENCHMARKS, Benchmark

HEADER = ["prompt", "strong_correct", "weak_correct"]


@pytest.fixture(autouse=True)
def _in_a_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROUTEBATCH_EMBEDDING__CACHE", str(tmp_path / "vectors"))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def printed(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert isinstance(value, dict)
    return value


def mmlu(count: int = 12) -> None:
    rows = [[f"prove theorem {n}" if n % 2 else f"name colour {n}", 1, int(n % 2 == 0)] for n in range(count)]
    Path("mmlu.csv").write_text(table([HEADER, *rows]))


def gsm8k() -> None:
    header = [*HEADER, "strong_response", "weak_response"]
    rows = [[f"add {n} apples", 1, n % 2, f"it is {n}" * (n + 1), "no"] for n in range(8)]
    Path("gsm8k.csv").write_text(table([header, *rows]))


def test_routers_stand_side_by_side_with_baselines_and_published_figures() -> None:
    mmlu()
    result = printed("evaluate", "--router", "gain", "--router", "random", "--benchmark", "mmlu", "--data", ".")
    (measured,) = result["benchmarks"]
    assert (measured["prompts"], measured["all_weak"], measured["all_strong"]) == (12, 0.5, 1)
    assert [line["name"] for line in measured["routers"]] == ["gain", "random"]
    first, second = measured["routers"]
    assert first["difference"] is None
    assert second["difference"][0] <= second["apgr"] - first["apgr"] <= second["difference"][1]
    assert measured["random"]["apgr"] == pytest.approx(0.5)
    assert measured["oracle"]["apgr"] == pytest.approx(0.75)
    assert {row["method"] for row in measured["published"]["routers"]} >= {"bert", "random"}
    speed = result["overhead"]["routers"]["gain"]
    assert speed["usd_per_million_requests"] == pytest.approx(0.39 / 3600 / speed["requests_per_second"] * 1e6)
    assert "gain was fitted on a table called mmlu" in result["notes"][0]  # the router that ships


def test_tables_mark_what_is_published_and_show_dollars_where_costs_are_known() -> None:
    mmlu()
    gsm8k()
    result = run("evaluate", "--router", "random", "--benchmark", "mmlu", "--benchmark", "gsm8k", "--data", ".")
    assert result.exit_code == 0, result.output
    assert "published: matrix_factorization, Arena + golden labels" in result.stdout
    assert result.stdout.count("random routing") == 5  # two rankings, two worths, dollars of gsm8k alone
    assert result.stdout.count("quality at fixed dollars") == 1
    assert "mmlu: 12 prompts. All to weak (mistralai/Mixtral-8x7B-Instruct-v0.1) 0.500" in result.stdout


def test_what_a_router_was_fitted_on_is_left_out() -> None:
    mmlu()
    Path("known.csv").write_text(table([HEADER, ["PROVE  theorem 1", 1, 0], ["other", 1, 1]]))
    result = printed("evaluate", "--router", "random", "--benchmark", "mmlu", "--data", ".", "--leave-out", "known.csv")
    (measured,) = result["benchmarks"]
    assert (measured["prompts"], measured["left_out"]) == (11, 1)


def test_the_report_is_one_file_in_which_every_text_is_escaped() -> None:
    hostile = "<script>alert(1)</script>$x$"
    rows: list[list[object]] = [["prompt", hostile, "a & b"], *([f"prompt {n}", 1, n % 2] for n in range(6))]
    Path("gsm8k.csv").write_text(table(rows))
    name = "<img src=x>"
    shutil.copytree(DEFAULT_ARTIFACT, name)
    sets = ("--benchmark", "gsm8k", "--data", ".", "--answers", hostile, "a & b")
    result = run("evaluate", "--router", name, *sets, "--html", "report.html", "--plots", "pictures", "--seed", "7")
    assert result.exit_code == 0, result.output
    html = Path("report.html").read_text()
    assert "<script" not in html
    assert "<img src=x>" not in html
    assert "&lt;script&gt;" in html
    assert "&lt;img src=x&gt;" in html
    assert "a &amp; b" in html
    sources = re.findall(r'src="([^"]{1,30})', html)
    assert len(sources) == 3
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert {path.name for path in Path("pictures").iterdir()} == {
        f"gsm8k-{kind}.png" for kind in ("strong-calls", "dollars", "calibration")
    }
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in Path("pictures").iterdir())


def test_comparisons_are_a_set_too() -> None:
    pair = {"model_a": "big", "model_b": "small"}
    Path("c.jsonl").write_text(
        lines(*({"prompt": f"p {n}", "outcome": n % 2, **pair} for n in range(4)), {"prompt": "x"})
    )
    models = ("--strong", "big", "--weak", "small")
    result = run("evaluate", "--router", "random", "--benchmark", "comparisons", "--data", "c.jsonl", *models, "--json")
    assert result.exit_code == 0, result.output
    (measured,) = json.loads(result.stdout)["benchmarks"]
    assert (measured["prompts"], measured["models"]) == (4, {"strong": "big", "weak": "small"})
    assert measured["routers"][0]["apgr"] is None  # neither is better
    assert "left out: c.jsonl, line 5" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("--benchmark", "chess", "--data", "."), 2, "'chess' is not one of"),
        (("--benchmark", "mmlu", "--data", "nowhere"), 2, "does not exist"),
        (("--benchmark", "mmlu", "--data", "mmlu.csv"), 2, "name the directory with the tables of mmlu"),
        (("--benchmark", "gsm8k", "--data", "."), 1, "has none of gsm8k.csv"),
        (("--benchmark", "mmlu", "--data", ".", "--router", "nobody"), 2, "no such directory"),
        (("--benchmark", "mmlu", "--data", ".", "--strong", "a"), 2, "belong together"),
        (("--benchmark", "mmlu", "--data", ".", "--leave-out", "mmlu.csv"), 1, "no prompts are left of the set mmlu"),
    ],
)
def test_what_cannot_be_evaluated_is_said(arguments: tuple[str, ...], code: int, reason: str) -> None:
    mmlu()
    result = run("evaluate", *arguments)
    assert result.exit_code == code, result.output
    assert reason in result.output


def test_the_commands_sets_are_those_there_are() -> None:
    assert SETS == BENCHMARKS


def test_similarity_of_a_file_and_an_evaluation_set() -> None:
    encoder = str(write_encoder(Path("encoder")))
    Path("mmlu.csv").write_text(table([HEADER, ["w1 w2 w3", 1, 0], ["w4 w5", 1, 0]]))
    Path("a.txt").write_text("w1 w2 w3\nw30 w31\n")
    same = printed("similarity", "mmlu", "mmlu.csv", "--data", ".", "--encoder", encoder)
    assert same["similarity"] == pytest.approx(1, abs=1e-3)
    assert same["published"] == {"arena": 0.4823, "arena_and_more": 0.5678}
    other = printed("similarity", "a.txt", "mmlu", "--data", ".", "--encoder", encoder)
    assert (other["prompts_a"], other["prompts_b"], other["share_same"]) == (2, 2, 0.5)
    assert 0 < other["similarity"] < 0.999
    assert other["published"] is None
    shown = run("similarity", "mmlu", "a.txt", "--data", ".", "--encoder", encoder)
    assert "published, its own data and encoder" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [(("mmlu", "a.txt"), "name the directory of its tables with --data"), (("a.txt", "b.txt"), "b.txt: no such file")],
)
def test_sets_that_are_not_there_are_named(arguments: tuple[str, str], reason: str) -> None:
    Path("a.txt").write_text("w1\n")
    result = run("similarity", *arguments)
    assert result.exit_code == 2
    assert reason in result.output


def labels() -> None:
    rows = [[f"w{n} w1" if n % 2 else f"w{n} w2", 1, int(n % 2 == 0)] for n in range(40)]
    Path("labels.csv").write_text(table([HEADER, *rows]))


def trained(*arguments: str) -> dict[str, Any]:
    return printed("train", "gain", "--comparisons", "labels.csv", "--output", "router", *arguments)


def test_training_leaves_out_what_evaluation_sets_hold_and_says_so_in_the_artifact() -> None:
    labels()
    Path("set.txt").write_text("W3  w1\nw5 w1\n")
    result = trained("--decontaminate", "set.txt", "--encoder", "none")
    counted = {"same": 2, "similar": 0, "rows": 2, "against": 2, "similarity": None, "encoder": None}
    assert result["decontaminated"] == counted
    metadata = json.loads(Path("router/metadata.json").read_text())
    assert metadata["decontamination"] == counted
    assert metadata["data"]["rows"] == 38
    shown = run(
        "train",
        "gain",
        "--comparisons",
        "labels.csv",
        "--output",
        "router",
        "--decontaminate",
        "set.txt",
        "--encoder",
        "none",
    )
    assert "2 rows: 2 prompts the same, similar ones were not looked for" in shown.stdout


def test_training_leaves_out_what_an_encoder_finds_too_similar() -> None:
    labels()
    encoder = str(write_encoder(Path("encoder")))
    Path("mmlu.csv").write_text(table([HEADER, ["w3 w1", 1, 0], ["w1 w5", 1, 0]]))
    sets = ("--decontaminate", "mmlu", "--data", ".", "--encoder", encoder)
    strict = trained(*sets)["decontaminated"]
    loose = trained(*sets, "--similarity", "0.99")["decontaminated"]
    assert (strict["same"], loose["same"]) == (1, 1)
    assert strict["similar"] > loose["similar"]
    assert strict["similarity"] == 0.95


def test_without_an_encoder_only_the_same_are_looked_for_which_is_said() -> None:
    labels()
    Path("set.txt").write_text("w3 w1\n")
    command = ("train", "gain", "--comparisons", "labels.csv", "--output", "router", "--decontaminate", "set.txt")
    result = CliRunner().invoke(main, command, env={"ROUTEBATCH_EMBEDDING__ENCODER": str(Path("nowhere").absolute())})
    assert result.exit_code == 0, result.output
    assert "only the same prompts are left out" in result.stderr
    assert run(*command, "--encoder", "./nowhere").exit_code == 1  # it was asked for


def test_options_of_decontamination_alone_are_refused() -> None:
    labels()
    result = run("train", "gain", "--comparisons", "labels.csv", "--output", "router", "--similarity", "0.9")
    assert result.exit_code == 2
    assert "belong to --decontaminate" in result.output


SHIPS = {"tables": {"gsm8k": 9}}  # as the router's metadata that ships name what it was fitted on


@pytest.mark.parametrize(
    ("name", "data", "left_out", "warned"),
    [
        ("version-3", {}, 0, True),
        ("auto", {}, 0, True),
        ("auto", SHIPS, 0, False),
        ("version-3", {}, 5, False),
        ("my-router", {}, 0, False),
    ],
)
def test_a_router_version_is_warned_of_on_comparisons_that_it_may_know(
    name: str, data: dict[str, Any], left_out: int, warned: bool
) -> None:
    router = cast(Router, SimpleNamespace(metadata={"data": data}))
    ones = np.ones(1)
    comparisons = Benchmark("comparisons", ["1 + 1?"], ones, 1 - ones, ("big", "small"), left_out=left_out)
    assert bool(known(name, router, comparisons)) is warned
