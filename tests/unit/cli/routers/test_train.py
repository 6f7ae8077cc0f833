"""`routebatch train`: labels in, an artifact out; what was left out is named, what makes no sense is refused."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from cli.main import main
from cli.routers.method_options import parse_options
from training.fit.methods import METHODS

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


def train(*arguments: str, method: str = "gain") -> Result:
    return CliRunner().invoke(main, ["train", method, "--output", "router", *arguments])


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> str:
    """A method that needs no pair of models."""
    monkeypatch.setitem(METHODS, "fake", "tests.support.routers.fitted_fake:FakeOptions")
    return "fake"


def pairs(name: str = "pairs.jsonl", count: int = 60, models: tuple[str, ...] = ("big", "small", "other")) -> str:
    rows = [
        {"prompt": f"prompt {n}", "model_a": models[n % len(models)], "model_b": models[(n + 1) % len(models)]}
        | {"outcome": n % 5 / 4}
        for n in range(count)
    ]
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


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
    printed = json.loads(result.stdout)
    assert (printed["method"], printed["output"], printed["seed"]) == ("gain", "router", 0)
    counted = printed["counted"]
    assert {name: counted[name] for name in counted if counted[name]} == {"rows": 201, "used": 200, "bad": 1}
    assert printed["bad"] == [{"file": "labels.csv", "row": 202, "reason": "`strong_correct` is missing"}]
    assert printed["held_out"]["apgr"] > 0.7
    assert 30 < printed["held_out"]["prompts"] < 90
    data = printed["metadata"]["data"]
    assert len(data["fingerprint"]) == len(printed["fingerprint"]) == 64
    assert data["rows"] == 200 - printed["held_out"]["prompts"]
    assert "left out: labels.csv, line 202: `strong_correct` is missing" in result.stderr


def test_the_table_shows_rows_and_figures() -> None:
    result = train("--comparisons", outcomes(count=200), "--hold-out", "0.3")
    for word in ("rows", "fitted on", "calibration", "held out", "apgr", "random interval", "brier"):
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
    pairs(count=30, models=("big", "small"))
    result = train("--comparisons", "pairs.jsonl")
    assert result.exit_code == 1
    assert "big / small (30 rows)" in result.stderr
    assert train("--comparisons", "pairs.jsonl", "--strong", "big", "--weak", "small").exit_code == 0
    assert train("--comparisons", "pairs.jsonl", "--strong", "big").exit_code == 2


def test_a_method_for_any_pair_needs_none_named_and_takes_all_models(fake: str) -> None:
    printed = json.loads(train("--comparisons", pairs(), "--json", method=fake).stdout)
    assert (printed["counted"]["used"], printed["counted"]["other_models"]) == (60, 0)
    assert printed["metadata"]["data"] == {"fingerprint": printed["fingerprint"], "rows": 60}
    named = json.loads(
        train("--comparisons", "pairs.jsonl", "--strong", "big", "--weak", "small", "--json", method=fake).stdout
    )
    assert (named["counted"]["used"], named["counted"]["other_models"]) == (60, 40)
    assert named["fingerprint"] != printed["fingerprint"]


def test_what_is_held_out_is_measured_on_the_pair(fake: str) -> None:
    arguments = ["--comparisons", pairs(), "--hold-out", "0.4", "--json"]
    unnamed = train(*arguments, method=fake)
    assert unnamed.exit_code == 1
    assert "big / other (20 rows)" in unnamed.stderr
    printed = json.loads(train(*arguments, "--strong", "big", "--weak", "small", method=fake).stdout)
    assert 3 < printed["held_out"]["prompts"] < 16  # of the 20 that compare the two


def test_models_that_the_data_do_not_know_are_named(fake: str) -> None:
    for method in ("gain", fake):
        result = train("--comparisons", pairs(), "--strong", "big", "--weak", "tiny", method=method)
        assert result.exit_code == 1
        assert "no usable row compares big with tiny" in result.stderr
        assert "big / small (20 rows)" in result.stderr
        assert not Path("router").exists()


def test_a_pair_that_was_never_compared_itself_is_for_methods_for_any_pair(fake: str) -> None:
    rows = [("big", "small"), ("big", "other")] * 10
    lines = ({"prompt": f"p{n}", "model_a": a, "model_b": b, "outcome": n % 3 / 2} for n, (a, b) in enumerate(rows))
    Path("pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ["--comparisons", "pairs.jsonl", "--strong", "small", "--weak", "other"]
    assert train(*arguments, method=fake).exit_code == 0
    result = train(*arguments)
    assert result.exit_code == 1
    assert "no usable row compares small with other" in result.stderr


def test_the_table_says_what_calibration_did(fake: str) -> None:
    Path("labels.csv").write_text(HEADER + "".join(f"prompt {n},1,{int(n % 8 == 0)}\n" for n in range(400)))
    result = train("--comparisons", "labels.csv", method=fake)
    assert re.search(r"applied: error 0\.2187, with it 0\.02\d+ ± 0\.\d+, 400 held out", result.stdout)
    result = train("--comparisons", outcomes(count=60), method=fake)
    assert "none: 60 held out are too few" in result.stdout


def test_a_fit_without_its_packages_says_what_to_install(fake: str) -> None:
    result = train("--comparisons", pairs(), "--set", "trouble=torch", method=fake)
    assert result.exit_code == 1
    assert "this command needs torch" in result.stderr
    assert "pip install '.[server,embedded,models]'" in result.stderr


def test_a_full_disk_and_a_wrong_configuration_are_one_line(fake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = train("--comparisons", pairs(), "--set", "trouble=disk", method=fake)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "No space left on device" in result.stderr
    monkeypatch.setenv("ROUTEBATCH_ROUTING__DEVICE", "abacus")
    result = train("--comparisons", pairs(), method=fake)
    assert result.exit_code == 1
    assert "the configuration is wrong" in result.stderr


def test_without_a_database_its_comparisons_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(Path.cwd()))
    result = train("--comparisons", "db")
    assert result.exit_code == 1
    assert "no stack runs" in result.stderr
    outcomes("db")
    assert train("--comparisons", "./db").exit_code == 0


@pytest.mark.parametrize("rows", ["only,1,0\n", "a,1,0\nb,1,0\nc,1,0\n", "a,1,1\nb,0,0\n"])
@pytest.mark.parametrize("method", ["gain", "fake"])
def test_data_without_contrast_are_refused(rows: str, method: str, fake: str) -> None:
    Path("labels.csv").write_text(HEADER + rows)
    result = train("--comparisons", "labels.csv", method=method)
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
    options = parse_options(Options, ["size=7", "rate=1e-3", "on=TRUE", "kind=a=b", "limit=3"])
    assert options == Options(7, 0.001, True, "a=b", 3)
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


def test_of_several_processes_that_fit_one_router_the_first_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    second = train("--comparisons", outcomes(), "--output", "router")
    assert (second.exit_code, second.stdout, Path("router").exists()) == (0, "", False)
    monkeypatch.setenv("RANK", "0")
    assert train("--comparisons", outcomes(), "--output", "router").exit_code == 0
    assert Path("router", "metadata.json").is_file()


def test_battles_become_labels_by_tier() -> None:
    rows = [
        {"prompt": f"{topic} in battle number {n}", "model_a": a, "model_b": b, "outcome": outcome}
        for n in range(60)
        for a, b, topic, outcome in (
            ("first", "third", "prove the theorem", 1),
            ("third", "second", "name a colour of the thing", 0.5),
            ("second", "third", "prove the theorem", 1),
            ("third", "last", "name a colour of the thing", 1 if n else 0),
            ("first", "second", "name a colour of the thing", n % 2),
        )
    ]
    Path("battles.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = train("--comparisons", "battles.jsonl", "--by-tier", "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert (sorted(printed["tiers"]["strong"]), printed["tiers"]["weak"]) == (["first", "second"], ["third"])
    assert (printed["counted"]["used"], printed["counted"]["other_models"]) == (180, 120)
    assert "third" in train("--comparisons", "battles.jsonl", "--by-tier").stdout
    hard, easy = scored("router", "prove the theorem", "name a colour of it")
    assert float(hard.split(",")[1]) > float(easy.split(",")[1]) + 0.2
    named = train("--comparisons", "battles.jsonl", "--by-tier", "--strong", "first", "--weak", "third")
    assert (named.exit_code, "--by-tier" in named.output) == (2, True)
