"""`routebatch train`: labels in, an artifact out; what was left out is named, what makes no sense is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from cli.main import main
from cli.train import parse_options

HEADER = "prompt,strong_correct,weak_correct\n"


@pytest.fixture(autouse=True)
def _in_a_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def outcomes(name: str = "labels.csv", count: int = 60, extra: str = "") -> str:
    """A table in which the strong model is better on the prompts that ask for a proof."""
    rows = [
        f"prove theorem number {n} about rings,1,0\n" if n % 2 else f"what colour is thing {n}?,1,1\n"
        for n in range(count)
    ]
    Path(name).write_text(HEADER + "".join(rows) + extra)
    return name


def train(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["train", "gain", "--output", "router", *arguments])


def scored(router: str, *prompts: str) -> list[str]:
    Path("in.txt").write_text("\n".join(prompts))
    result = CliRunner().invoke(main, ["score", "in.txt", "--router", router])
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()[1:]


def test_a_trained_router_scores_by_what_it_learned() -> None:
    result = train("--comparisons", outcomes())
    assert result.exit_code == 0, result.output
    hard, easy = scored("router", "prove a theorem about rings", "what colour is it?")
    assert float(hard.split(",")[1]) > float(easy.split(",")[1]) + 0.2
    assert {path.name for path in Path("router").iterdir()} == {"metadata.json", "model.safetensors"}


def test_the_same_seed_gives_the_same_artifact() -> None:
    labels = outcomes()
    for directory in ("one", "two"):
        result = CliRunner().invoke(
            main, ["train", "gain", "--comparisons", labels, "--seed", "3", "--output", directory]
        )
        assert result.exit_code == 0
    for name in ("model.safetensors", "metadata.json"):
        assert (Path("one") / name).read_bytes() == (Path("two") / name).read_bytes()


def test_json_alone_on_stdout_says_what_was_counted_and_measured() -> None:
    labels = outcomes(count=200, extra="no label,,1\n")
    result = train("--comparisons", labels, "--hold-out", "0.3", "--json")
    found = json.loads(result.stdout)
    assert (found["method"], found["output"], found["seed"]) == ("gain", "router", 0)
    counted = found["counted"]
    assert {name: counted[name] for name in counted if counted[name]} == {"rows": 201, "used": 200, "bad": 1}
    assert found["bad"] == [{"file": "labels.csv", "row": 202, "reason": "`strong_correct` is missing"}]
    assert found["held_out"]["apgr"] > 0.7
    assert 30 < found["held_out"]["prompts"] < 90
    assert len(found["metadata"]["data"]["fingerprint"]) == len(found["fingerprint"]) == 64
    assert "left out: labels.csv, line 202: `strong_correct` is missing" in result.stderr


def test_the_table_shows_rows_and_figures() -> None:
    result = train("--comparisons", outcomes(count=200), "--hold-out", "0.3")
    for word in ("rows", "fitted on", "held out", "apgr", "random interval", "brier"):
        assert word in result.stdout


def test_many_bad_rows_are_named_up_to_ten_and_counted() -> None:
    result = train("--comparisons", outcomes(extra="bad,2,0\n" * 1234))
    assert result.exit_code == 0
    assert result.stderr.count("`strong_correct` is 2") == 10
    assert "left out: 1,224 more bad rows" in result.stderr


def test_several_files_are_taken_together_however_they_are_named() -> None:
    one, two = outcomes("one.csv", 30), outcomes("two.csv", 20)
    for arguments in (["--comparisons", one, "--comparisons", two], ["--comparisons", one, two]):
        assert json.loads(train(*arguments, "--json").stdout)["counted"]["rows"] == 50


def test_models_are_named_where_rows_name_them() -> None:
    rows = [{"prompt": f"prompt {n}", "model_a": "big", "model_b": "small", "outcome": n % 3 / 2} for n in range(30)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = train("--comparisons", "pairs.jsonl")
    assert result.exit_code == 1
    assert "big / small (30 rows)" in result.stderr
    assert train("--comparisons", "pairs.jsonl", "--strong", "big", "--weak", "small").exit_code == 0
    assert train("--comparisons", "pairs.jsonl", "--strong", "big").exit_code == 2


@pytest.mark.parametrize("rows", ["only,1,0\n", "a,1,0\nb,1,0\nc,1,0\n", "a,1,1\nb,0,0\n"])
def test_data_without_contrast_are_refused(rows: str) -> None:
    Path("labels.csv").write_text(HEADER + rows)
    result = train("--comparisons", "labels.csv")
    assert result.exit_code == 1
    assert "say the same" in result.stderr
    assert not Path("router").exists()


def test_too_few_labels_to_hold_some_out_are_refused() -> None:
    Path("labels.csv").write_text(HEADER + "a,1,0\nb,1,1\n")
    result = train("--comparisons", "labels.csv", "--hold-out", "0.0001")
    assert result.exit_code == 1
    assert "too few to hold some out" in result.stderr


def test_a_directory_that_holds_something_else_is_left_alone() -> None:
    Path("router").mkdir()
    Path("router/thesis.txt").write_text("years of work")
    result = train("--comparisons", outcomes())
    assert result.exit_code == 2
    assert Path("router/thesis.txt").exists()


def test_a_damaged_artifact_is_not_scored_with() -> None:
    assert train("--comparisons", outcomes()).exit_code == 0
    weights = Path("router/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    Path("in.txt").write_text("a\n")
    result = CliRunner().invoke(main, ["score", "in.txt", "--router", "router", "-o", "scores.csv"])
    assert result.exit_code == 1
    assert "model.safetensors is damaged" in result.stderr
    assert not Path("scores.csv").exists()


def test_training_again_replaces_the_artifact() -> None:
    assert train("--comparisons", outcomes()).exit_code == 0
    before = scored("router", "what colour is it?")
    assert train("--comparisons", outcomes(count=400)).exit_code == 0
    assert scored("router", "what colour is it?") != before


@dataclass(frozen=True)
class Options:
    size: int = 5
    rate: float = 0.5
    on: bool = False
    kind: str = "plain"
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("size must not be negative")


def test_options_are_read_by_their_types() -> None:
    assert parse_options(Options, []) == Options()
    found = parse_options(Options, ["size=7", "rate=1e-3", "on=TRUE", "kind=a=b", "limit=3"])
    assert found == Options(7, 0.001, True, "a=b", 3)
    assert parse_options(Options, ["limit=none"]).limit is None


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        ("size", "KEY=VALUE is expected"),
        ("colour=red", "KEY one of: size, rate, on, kind, limit"),
        ("size=1.5", "invalid literal"),
        ("rate=nan", "finite"),
        ("on=maybe", "true or false"),
        ("size=-1", "must not be negative"),
    ],
)
def test_options_that_make_no_sense_are_wrong_usage(pair: str, reason: str) -> None:
    with pytest.raises(click.UsageError, match=reason):
        parse_options(Options, [pair])


def test_an_options_value_out_of_its_range_is_wrong_usage() -> None:
    arguments: list[Any] = ["--comparisons", outcomes(), "--set", "landmarks=0"]
    assert train(*arguments).exit_code == 2


def test_an_unknown_method_or_a_missing_file_is_wrong_usage() -> None:
    assert CliRunner().invoke(main, ["train", "magic", "--comparisons", outcomes(), "--output", "x"]).exit_code == 2
    assert train("--comparisons", "none.csv").exit_code == 2
