"""`routebatch score`: a row a prompt in the file's order, chunk by chunk, from every form of input."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from cli.routers.prompts import CHUNK, CHUNK_CHARACTERS, FIRST_CHUNK
from routing_service.routers import registry
from tests.support.paths import EXAMPLES
from tests.support.routers.fake_router import LengthRouter

PROMPTS = ["a", "bb", "ccc"]


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LengthRouter:
    router = LengthRouter()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(registry.METHODS, "length", "tests.support.routers.fake_router:LengthRouter")
    monkeypatch.setattr(registry, "make_router", lambda name, settings: router)
    return router


def run(content: str | bytes, *arguments: str, name: str = "in.jsonl") -> Result:
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    return CliRunner().invoke(main, ["score", name, "--router", "length", *arguments])


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


BATCH = "".join(
    json.dumps(
        {
            "custom_id": prompt,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "m",
                "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": prompt}],
            },
        }
    )
    + "\n"
    for prompt in PROMPTS
)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (BATCH, "in.jsonl"),
        ("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS), "in.jsonl"),
        ("topic,prompt\n" + "".join(f"t,{prompt}\n" for prompt in PROMPTS), "in.csv"),
        ("\n\n".join(PROMPTS), "in.txt"),
        (gzip.compress(("prompt\n" + "\n".join(PROMPTS)).encode(), mtime=0), "in.csv.gz"),
    ],
)
def test_every_form_of_input_gives_a_row_a_prompt_in_its_order(
    router: LengthRouter, content: str | bytes, name: str
) -> None:
    result = run(content, "-o", "scores.csv", name=name)
    assert result.exit_code == 0, result.output
    assert Path("scores.csv").read_text() == (
        "win_rate,expected_gain,std\n"
        "0.550000,0.100000,0.050000\n"
        "0.600000,0.200000,0.100000\n"
        "0.650000,0.300000,0.150000\n"
    )
    assert "scored 3 prompts with length: wrote scores.csv" in result.stderr
    assert result.stdout == ""


def test_without_an_output_file_the_table_goes_to_stdout_alone(router: LengthRouter) -> None:
    result = run("prompt\na\n", name="in.csv")
    assert rows(result.stdout) == [{"win_rate": "0.550000", "expected_gain": "0.100000", "std": "0.050000"}]
    assert result.stderr == ""


def test_stdin_is_scored(router: LengthRouter) -> None:
    result = CliRunner().invoke(main, ["score", "-", "--router", "length"], input="a\nbb\n")
    assert [row["win_rate"] for row in rows(result.stdout)] == ["0.550000", "0.600000"]


def test_many_prompts_are_scored_in_chunks_that_grow_to_their_size(router: LengthRouter) -> None:
    count = 3 * CHUNK
    result = run("\n".join("x" * (1 + number % 9) for number in range(count)), name="in.txt")
    assert [row["expected_gain"] for row in rows(result.stdout)] == [f"{(1 + n % 9) / 10:.6f}" for n in range(count)]
    assert router.asked == [FIRST_CHUNK, 128, 256, 512, CHUNK, CHUNK, FIRST_CHUNK]
    assert sum(router.asked) == count


def test_prompts_that_are_long_are_scored_fewer_at_a_time(router: LengthRouter) -> None:
    long = "x" * (CHUNK_CHARACTERS // 4)
    result = run("\n".join([long] * 6), name="in.txt")
    assert router.asked == [4, 2]
    assert len(rows(result.stdout)) == 6


def test_the_models_that_are_to_be_compared_can_be_named(router: LengthRouter) -> None:
    assert run("a\n", "--strong", "big", "--weak", "small", name="in.txt").exit_code == 0
    assert run("a\n", name="in.txt").exit_code == 0
    assert router.models == {("big", "small"), ("strong", "weak")}


def test_the_configured_candidates_are_compared_where_nobody_names_models(router: LengthRouter) -> None:
    table = "".join(f'[models.{key}]\nname = "m"\nbase_url = "http://127.0.0.1:9/v1"\n' for key in "abc")
    Path("routebatch.toml").write_text(table + '[routing]\ncandidates = ["b", "c", "a"]\n')
    assert run("a\n", name="in.txt").exit_code == 0
    assert router.models == {("a", "b")}


def test_models_named_by_half_or_twice_are_wrong_usage_and_an_unknown_one_is_an_error(router: LengthRouter) -> None:
    assert run("a\n", "--strong", "big", name="in.txt").exit_code == 2
    assert run("a\n", "--strong", "big", "--weak", "big", name="in.txt").exit_code == 2
    result = run("a\n", "--strong", "unknown", "--weak", "small", "-o", "scores.csv", name="in.txt")
    assert (result.exit_code, Path("scores.csv").exists()) == (1, False)
    assert "does not know the model 'unknown'" in result.stderr


@pytest.mark.parametrize(
    ("content", "name", "reasons"),
    [
        ("topic,prompt\nt,a\nt,\n", "in.csv", ["line 3: the prompt is empty"]),
        (
            '{"prompt":"a"}\n{"prompt":3}\nnonsense\n',
            "in.jsonl",
            ["line 2: `prompt` must be a string", "line 3: not JSON"],
        ),
        (BATCH + "nonsense\n", "in.jsonl", ["line 4: not JSON"]),
        (BATCH + '{"body": {"model": "m"}}\n', "in.jsonl", ["line 4: body.messages is required"]),
        (BATCH + '{"custom_id": "x"}\n', "in.jsonl", ["line 4: body is required"]),
        (
            BATCH + '{"body":{"messages":[{"role":"user","content":[{"type":"image_url","image_url":"x"}]}]}}\n',
            "in.jsonl",
            ["line 4: body.messages[0].content[0]"],
        ),
        (b"\x1f\x8bnonsense", "in.csv.gz", ["in.csv.gz is no whole gzip file"]),
    ],
)
def test_bad_lines_are_named_and_nothing_is_written(
    router: LengthRouter, content: str | bytes, name: str, reasons: list[str]
) -> None:
    result = run(content, "-o", "scores.csv", name=name)
    assert result.exit_code == 1
    for reason in reasons:
        assert reason in result.stderr
    assert sorted(path.name for path in Path().iterdir()) == [name]


def test_more_than_ten_bad_batch_lines_are_named_up_to_ten(router: LengthRouter) -> None:
    result = run(BATCH + "{}\n" * 30, "--format", "batch")
    assert [line.strip().split(":")[0] for line in result.stderr.splitlines()[1:]] == [
        *(f"line {number}" for number in range(4, 14)),
        "more lines are bad",
    ]


def test_a_router_that_is_neither_a_name_nor_a_directory_is_wrong_usage(router: LengthRouter) -> None:
    Path("in.txt").write_text("a\n")
    result = CliRunner().invoke(main, ["score", "in.txt", "--router", "nowhere"])
    assert result.exit_code == 2
    assert "no such directory, and no router's name" in result.stderr
    assert "random" in result.stderr


def test_scoring_needs_no_keys_of_the_configured_models(router: LengthRouter) -> None:
    Path("routebatch.toml").write_text(
        '[models.big]\nname = "m"\nbase_url = "http://127.0.0.1:9/v1"\napi_key_env = "UNSET_KEY"\n'
        '[routing]\nrouter = "length"\n'
    )
    Path("in.txt").write_text("a\n")
    assert CliRunner().invoke(main, ["score", "in.txt"]).exit_code == 0
    Path("routebatch.toml").write_text("[routing]\nrouterr = 1\n")
    result = CliRunner().invoke(main, ["score", "in.txt"])
    assert result.exit_code == 1
    assert "routerr" in result.stderr


def test_the_input_is_not_overwritten(router: LengthRouter) -> None:
    result = run("a\n", "-o", "in.txt", name="in.txt")
    assert result.exit_code == 2
    assert Path("in.txt").read_text() == "a\n"


def test_the_router_that_ships_scores_the_examples() -> None:
    examples = EXAMPLES
    result = CliRunner().invoke(main, ["score", str(examples / "prompts.csv"), "--router", "gain"])
    actual = rows(result.stdout)
    assert len(actual) == 10
    for row in actual:
        assert 0 < float(row["win_rate"]) < 1
        assert float(row["expected_gain"]) == pytest.approx(2 * float(row["win_rate"]) - 1, abs=2e-6)
        assert float(row["std"]) > 0


def test_prompts_of_any_length_and_script_get_a_finite_score_each() -> None:
    odd = ["x" * 100_000, "一个正方形的面积", "a\nb", "a\u2028b", '"quoted", twice', "\ud83d\ude00", ""]
    lines = "".join(json.dumps({"body": {"messages": [{"role": "user", "content": text}]}}) + "\n" for text in odd)
    result = CliRunner().invoke(main, ["score", "-", "--router", "gain"], input=lines)
    actual = rows(result.stdout)
    assert len(actual) == len(odd)
    for row in actual:
        assert 0 <= float(row["win_rate"]) <= 1
        assert 0 < float(row["std"]) <= 1
