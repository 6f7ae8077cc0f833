"""Evaluation sets: both layouts say the same, bad rows are named, and what is contaminated does not take part."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.routers.labelled import lines, table
from training.data.readers import load_comparisons
from training.data.tables import DataError
from training.evaluate.benchmark_sets import PAPER_PAIR, Benchmark, from_comparisons, load_benchmark

STRONG, WEAK = PAPER_PAIR
OUTCOMES: list[list[Any]] = [
    ["prompt", "strong_correct", "weak_correct"],
    ["one", 1, 0],
    ["two", 1, 1],
    ["three", 0, 1],
]


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def test_a_table_of_outcomes_gives_both_models_qualities(tmp_path: Path) -> None:
    (tmp_path / "mmlu.csv.gz").write_bytes(gzip.compress(table(OUTCOMES).encode()))
    benchmark = load_benchmark("mmlu", tmp_path)
    assert benchmark.prompts == ["one", "two", "three"]
    assert benchmark.gain.tolist() == [1, 0, -1]
    assert (benchmark.pair, benchmark.costs, benchmark.left_out, len(benchmark)) == (PAPER_PAIR, None, 0, 3)


@pytest.mark.parametrize("weak", [WEAK, "mixtral-8x7b-instruct-v0.1"])
def test_the_tables_of_routellm_are_read_subject_by_subject_without_what_is_contaminated(
    tmp_path: Path, weak: str
) -> None:
    header = ["prompt", weak, STRONG]
    responses = tmp_path / "mmlu" / "responses"
    write(responses / "mmlu_anatomy.csv", table([header, ["bones", "True", "True"], ["seen", "True", "True"]]))
    write(responses / "mmlu_virology.csv", table([header, ["germs", "False", "True"]]))
    write(tmp_path / "mmlu" / "contaminated_prompts.jsonl", lines({"train_prompt": "Seen!", "eval_prompt": "seen"}))
    benchmark = load_benchmark("mmlu", tmp_path)
    assert benchmark.prompts == ["bones", "germs"]
    assert (benchmark.gain.tolist(), benchmark.left_out) == ([0, 1], 1)


def test_recorded_answers_tell_costs(tmp_path: Path) -> None:
    header = [*OUTCOMES[0], "strong_response", "weak_response"]
    write(tmp_path / "gsm8k.csv", table([header, ["1234", 1, 0, "12345678" * 10, "1234"]]))
    benchmark = load_benchmark("gsm8k", tmp_path, usd_per_million=(10, 1))
    assert benchmark.costs is not None
    assert benchmark.costs.tolist() == [[pytest.approx(21 * 10e-6), pytest.approx(2 * 1e-6)]]


def test_the_answers_of_routellm_tell_costs_too(tmp_path: Path) -> None:
    header = ["prompt", WEAK, STRONG, f"{WEAK}_response", f"{STRONG}_response"]
    write(tmp_path / "gsm8k_responses.csv", table([header, ["1234", "True", "False", "1234", "12345678"]]))
    benchmark = load_benchmark("gsm8k", tmp_path, usd_per_million=(10, 1))
    assert benchmark.gain.tolist() == [-1]
    assert benchmark.costs is not None
    assert benchmark.costs.tolist() == [[pytest.approx(3 * 10e-6), pytest.approx(2 * 1e-6)]]


def judged(question: int, strong: tuple[int, int], weak: tuple[int, int]) -> list[list[object]]:
    return [
        [question, turn + 1, model, scores[turn]]
        for model, scores in ((STRONG, strong), (WEAK, weak))
        for turn in (0, 1)
    ]


def test_mt_bench_routes_the_first_turn_and_scores_the_mean_of_both(tmp_path: Path) -> None:
    questions: list[list[object]] = [["question_id", "category", "turn_1", "turn_2"], [81, "math", "first", "second"]]
    scores: list[list[object]] = [["question_id", "turn", "model", "score"], *judged(81, (10, 7), (1, 4))]
    write(tmp_path / "mt_bench_questions.csv", table(questions))
    write(tmp_path / "mt_bench_scores.csv", table(scores))
    benchmark = load_benchmark("mt-bench", tmp_path)
    assert benchmark.prompts == ["first"]
    assert benchmark.reported(benchmark.strong[0]) == pytest.approx(8.5)
    assert benchmark.reported(benchmark.weak[0]) == pytest.approx(2.5)
    assert benchmark.gain[0] == pytest.approx(6 / 9)


def test_mt_bench_of_routellm_leaves_questions_out_by_either_turn(tmp_path: Path) -> None:
    folder = tmp_path / "mt_bench"
    turns = {81: ["a", "b"], 82: ["c", "seen"], 83: ["seen", "d"]}
    write(folder / "question.jsonl", lines(*({"question_id": key, "turns": both} for key, both in turns.items())))
    rows = [
        dict(zip(("question_id", "turn", "model", "score"), row, strict=True)) for row in judged(81, (9, 9), (8, 9))
    ]
    write(folder / "judgements.jsonl", lines(*rows))
    write(folder / "contaminated_prompts.jsonl", lines({"eval_prompt": "seen"}))
    benchmark = load_benchmark("mt-bench", tmp_path)
    assert (benchmark.prompts, benchmark.left_out) == (["a"], 2)


def test_a_question_without_scores_of_a_model_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "question.jsonl", lines({"question_id": 81, "turns": ["a", "b"]}))
    write(tmp_path / "judgements.jsonl", lines({"question_id": 81, "turn": 1, "model": STRONG, "score": 9}))
    with pytest.raises(DataError, match=f"no score of question 81 for {WEAK}; it has models {STRONG}"):
        load_benchmark("mt-bench", tmp_path)


def test_comparisons_of_a_prompt_count_once_by_their_weights(tmp_path: Path) -> None:
    pair = {"model_a": "big", "model_b": "small"}
    turned = {"model_a": "small", "model_b": "big"}
    path = write(
        tmp_path / "c.jsonl",
        lines(
            {"prompt": "twice", "outcome": 1, "weight": 3, **pair},
            {"prompt": "twice", "outcome": 1, "weight": 1, **turned},
            {"prompt": "tie", "outcome": 0.5, **pair},
            {"prompt": "others", "outcome": 1, "model_a": "big", "model_b": "other"},
        ),
    )
    benchmark = load_benchmark("comparisons", path, pair=("big", "small"))
    assert dict(zip(benchmark.prompts, benchmark.gain.tolist(), strict=True)) == {"twice": 0.5, "tie": 0}
    unnamed = load_comparisons([path]).comparisons
    with pytest.raises(DataError, match="say which is strong and which is weak"):
        from_comparisons(unnamed)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (
            "mmlu",
            "prompt,strong_correct,weak_correct\none,1,0\ntwo,2,0\n",
            r"mmlu\.csv, line 3: .*2, not within 0 and 1",
        ),
        ("mmlu", "prompt,strong_correct,weak_correct\none,1\n", r"line 2: it has 2 cells"),
        ("mmlu", "prompt,strong_correct,weak_correct\n", "mmlu is empty"),
        ("mmlu", "prompt,gpt\none,1\n", f"`{STRONG}` is missing"),
        ("chess", "", "no evaluation set 'chess'. Sets: mmlu, gsm8k, mt-bench, comparisons"),
        ("gsm8k", "", r"has none of gsm8k\.csv, gsm8k_responses\.csv"),
    ],
)
def test_what_is_no_evaluation_set_is_refused_by_name(tmp_path: Path, name: str, content: str, reason: str) -> None:
    write(tmp_path / "mmlu.csv", content)
    with pytest.raises(DataError, match=reason):
        load_benchmark(name, tmp_path)


def test_rows_that_are_left_out_are_counted_and_one_must_stay() -> None:
    costs = np.array([[2.0, 1.0], [4.0, 3.0]])
    benchmark = Benchmark("few", ["a", "b"], np.array([1.0, 0.0]), np.array([0.0, 0.0]), ("s", "w"), costs)
    left = benchmark.without(["a", "z"])
    assert (left.prompts, left.left_out, left.gain.tolist()) == (["b"], 1, [0])
    assert left.costs is not None
    assert left.costs.tolist() == [[4, 3]]
    with pytest.raises(DataError, match="no prompts are left of the set few"):
        left.without(["b"])


def test_turns_may_stand_as_json_in_a_cell(tmp_path: Path) -> None:
    write(tmp_path / "question.jsonl", lines({"question_id": "81", "turns": json.dumps(["a", "b"])}))
    rows = [
        dict(zip(("question_id", "turn", "model", "score"), row, strict=True)) for row in judged(81, (9, 9), (8, 9))
    ]
    write(tmp_path / "judgements.jsonl", lines(*rows))
    assert load_benchmark("mt-bench", tmp_path).prompts == ["a"]
