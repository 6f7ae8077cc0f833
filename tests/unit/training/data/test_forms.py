"""Training data: forms are told apart by their columns, gains point to strong, bad rows are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from routing_service.models.base import ComparisonSource
from tests.support.routers.labelled import lines, load, loaded_labels, table
from training.data.forms import SOURCES
from training.data.labels import DataError
from training.data.readers import load_comparisons

NONE_LEFT_OUT = {"short_prompts": 0, "same_model": 0, "other_ratings": 0}
LONG = "a prompt of more than sixteen characters"
WINNERS = ["winner_model_a", "winner_model_b", "winner_tie"]
Rows = list[list[Any]]


def test_outcome_tables_give_the_difference_of_the_two(tmp_path: Path) -> None:
    rows: Rows = [
        ["subject", "prompt", "strong_correct", "weak_correct"],
        ["s", "one", 1, 0],
        ["s", "two", "True", "true"],
        ["s", "three\nin two lines", 0, 1.0],
        ["s", "four", 0.75, 0.25],
    ]
    loaded = load(tmp_path, table(rows))
    assert loaded_labels(loaded).prompts == ["one", "two", "three\nin two lines", "four"]
    assert loaded_labels(loaded).gain.tolist() == [1, 0, -1, 0.5]
    assert loaded_labels(loaded).weight.tolist() == [1] * 4
    assert set(loaded_labels(loaded).source) == {"golden"}
    assert loaded.bad == []
    assert loaded.counted == {"rows": 4, "used": 4, "bad": 0, "other_models": 0} | NONE_LEFT_OUT


def test_response_tables_are_outcome_tables_whose_columns_are_the_models(tmp_path: Path) -> None:
    content = table([["prompt", "org/big", "org/small"], ["p", "True", "False"], ["q", "True", "True"]])
    assert loaded_labels(load(tmp_path, content, strong="org/big", weak="org/small")).gain.tolist() == [1, 0]
    assert loaded_labels(load(tmp_path, content, strong="org/small", weak="org/big")).gain.tolist() == [-1, 0]


def test_comparisons_point_to_strong_whichever_side_it_stands_on(tmp_path: Path) -> None:
    content = lines(
        {"prompt": "one", "model_a": "big", "model_b": "small", "outcome": 1},
        {"prompt": "two", "model_a": "small", "model_b": "big", "outcome": 1, "weight": 2.5, "source": "judge"},
        {"prompt": "three", "model_a": "big", "model_b": "small", "outcome": 0.5},
        {"prompt": "four", "model_a": "big", "model_b": "other", "outcome": 0},
    )
    loaded = load(tmp_path, content, "data.jsonl", strong="big", weak="small")
    assert loaded_labels(loaded).prompts == ["one", "two", "three"]
    assert loaded_labels(loaded).gain.tolist() == [1, -1, 0]
    assert loaded_labels(loaded).weight.tolist() == [1, 2.5, 1]
    assert loaded_labels(loaded).source == ["golden", "judge", "golden"]
    assert loaded.counted["other_models"] == 1
    assert loaded.counted["used"] == len(loaded.comparisons) == 4
    assert loaded.comparisons.models == ["big", "small", "other"]


def test_arena_takes_the_first_turn_of_its_list_or_the_text(tmp_path: Path) -> None:
    rows: Rows = [
        ["id", "model_a", "model_b", "prompt", *WINNERS],
        [1, "big", "small", json.dumps([LONG, "second turn"]), 1, 0, 0],
        [2, "small", "big", json.dumps([None, LONG]), 1, 0, 0],
        [3, "small", "big", LONG, 0, 0, 1],
        [4, "big", "small", "[is no JSON, but a prompt]", 0, 1, 0],
        [5, "big", "small", '["hi"]', 0, 1, 0],
        [6, "big", "big", LONG, 0, 1, 0],
    ]
    loaded = load(tmp_path, table(rows), strong="big", weak="small")
    assert loaded_labels(loaded).prompts == [LONG, LONG, LONG, "[is no JSON, but a prompt]"]
    assert loaded_labels(loaded).gain.tolist() == [1, -1, 0, -1]
    assert set(loaded_labels(loaded).source) == {"arena"}
    counted = loaded.counted
    assert (counted["short_prompts"], counted["same_model"], counted["other_models"], counted["bad"]) == (1, 1, 0, 0)


def test_battles_take_their_prompts_from_another_file_in_either_order(tmp_path: Path) -> None:
    battles, prompts = tmp_path / "battles.csv", tmp_path / "prompts.csv"
    prompts.write_text(table([["prompt_id", "prompt"], ["x", LONG], ["y", ""]]))
    battles.write_text(
        table(
            [
                ["prompt_id", "model_a", "model_b", "preference_b"],
                ["x", "big", "small", 0.25],
                ["x", "small", "big", 1],
                ["z", "small", "big", 1],
            ]
        )
    )
    for paths in ([battles, prompts], [prompts, battles]):
        loaded = load_comparisons(paths, strong="big", weak="small")
        assert loaded_labels(loaded).prompts == [LONG, LONG]
        assert loaded_labels(loaded).gain.tolist() == [0.5, 1]
        assert [str(row) for row in loaded.bad] == [
            f"{prompts}, line 3: `prompt` is empty",
            f"{battles}, line 4: no prompt has the id 'z'",
        ]


def test_battles_without_their_prompts_say_what_is_missing(tmp_path: Path) -> None:
    content = table([["prompt_id", "model_a", "model_b", "preference_b"], ["x", "a", "b", 1]])
    with pytest.raises(DataError, match="prompt_id and prompt"):
        load(tmp_path, content, strong="a", weak="b")


def test_scores_of_four_and_five_are_good_enough(tmp_path: Path) -> None:
    content = lines(*({"prompt": f"p{score}", "mixtral_score": score} for score in (1, 2, 3, 4, 5)))
    loaded = load(tmp_path, content, "data.jsonl")
    assert loaded_labels(loaded).gain.tolist() == [1, 1, 1, 0, 0]
    assert loaded.comparisons.rating is not None
    assert loaded.comparisons.rating.tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{broken", "not JSON"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "its JSON is nested too deeply"),
        ('{"prompt": 3, "model_a": "a", "model_b": "b", "outcome": 1}', "`prompt` is no text"),
        ('{"prompt": "p", "model_a": "a", "model_b": "a", "outcome": 1}', "`model_a` and `model_b` are both 'a'"),
        ('{"prompt": "p", "model_a": "a", "model_b": "b", "outcome": NaN}', "`outcome` is nan"),
        ('{"prompt": "p", "model_a": "a", "model_b": "b", "outcome": null}', "`outcome` is missing"),
        ('{"prompt": "p", "model_a": "a", "model_b": "b", "outcome": [1]}', "`outcome` is no number"),
        ('{"prompt": "p", "model_a": "a", "model_b": "b", "outcome": 1, "weight": 0}', "`weight` is 0"),
        ('{"prompt": "p", "model_a": "a", "model_b": "b", "outcome": 1, "weight": Infinity}', "`weight` is inf"),
        (
            '{"prompt": "p", "model_a": "a", "model_b": "b", "outcome": 1, "weight": 1e7}',
            "`weight` is 1e+07",
        ),
        ('{"prompt": "p", "model_a": "a", "model_b": "b", "outcome": 1, "source": "rumour"}', "`source` is 'rumour'"),
        ('{"prompt": "\\ud800", "model_a": "a", "model_b": "b", "outcome": 1}', "`prompt` holds bytes"),
    ],
)
def test_bad_json_lines_are_named(tmp_path: Path, line: str, reason: str) -> None:
    good = lines({"prompt": "good", "model_a": "a", "model_b": "b", "outcome": 1})
    loaded = load(tmp_path, good + line + "\n" + good, "data.jsonl", strong="a", weak="b")
    assert len(loaded_labels(loaded)) == 2
    assert [row.row for row in loaded.bad] == [2]
    assert loaded.bad[0].reason.startswith(reason)


def test_arena_rows_without_one_winner_are_bad(tmp_path: Path) -> None:
    rows: Rows = [["model_a", "model_b", "prompt", *WINNERS]]
    rows += [["a", "b", LONG, *won] for won in ([1, 0, 0], [1, 1, 0], [0, 0, 0])]
    loaded = load(tmp_path, table(rows), strong="a", weak="b")
    assert [row.row for row in loaded.bad] == [3, 4]


def test_sources_are_those_of_the_database() -> None:
    assert {str(source.value) for source in ComparisonSource} == SOURCES


def test_alpaca_evals_annotations_are_battles_of_two_generators(tmp_path: Path) -> None:
    names = {"instruction": LONG, "generator_1": "a", "generator_2": "b", "output_1": "x", "output_2": "y"}
    rows = [names | {"preference": preference} for preference in (1, 2, 1.5, 0, 0.5)] + ["no object"]
    loaded = load(tmp_path, json.dumps(rows), "annotations.json")
    assert loaded.comparisons.outcome.tolist() == [1, 0, 0.5, 0.5]
    assert loaded.comparisons.models == ["a", "b"]
    assert [str(row).split(", ", 1)[1] for row in loaded.bad] == [
        "item 5: `preference` is 0.5, which is neither 0 nor within 1 and 2",
        "item 6: not a JSON object",
    ]


def test_ratings_count_for_the_weak_model_alone(tmp_path: Path) -> None:
    rows: Rows = [["prompt", "model", "score"], ["one", "small", 5], ["two", "small", 2], ["three", "big", 1]]
    loaded = load(tmp_path, table([*rows, ["four", "small", 6]]), strong="big", weak="small")
    assert loaded.comparisons.rating is not None
    assert loaded.comparisons.rating.tolist() == [5, 2]
    assert loaded_labels(loaded).gain.tolist() == [0, 1]
    assert set(loaded_labels(loaded).source) == {"judge"}
    assert (loaded.counted["used"], loaded.counted["other_ratings"], loaded.counted["bad"]) == (2, 1, 1)
    with pytest.raises(DataError, match="say which model is strong"):
        load(tmp_path, table(rows))
    with pytest.raises(DataError, match="3 ratings are of other models"):
        load(tmp_path, table(rows), strong="big", weak="other")
