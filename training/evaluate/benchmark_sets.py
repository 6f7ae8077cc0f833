"""Evaluation sets: prompts, and how good the strong and the weak model's answers to them are.

`load_benchmark("mmlu", directory)` reads a set by its name; a new one is a function and a line in SETS. Tables come in
two layouts, as tables of outcomes and as RouteLLM's repository has them. They lie in the named directory or in a folder
that is called after the set, plain or gzipped:

- mmlu: `mmlu.csv` with `prompt, strong_correct, weak_correct`; or `mmlu_SUBJECT.csv`, also in `responses/`, with
  `prompt` and a column called after each model.
- gsm8k: `gsm8k.csv` with the same columns; or `gsm8k_responses.csv`. Where the answers are recorded too
  (`strong_response, weak_response`, or `MODEL_response`), they tell costs.
- mt-bench: `mt_bench_questions.csv` (`question_id, turn_1, turn_2`) and `mt_bench_scores.csv` (`question_id, model,
  score`, a row for each turn); or `question.jsonl` and `judgements.jsonl`. The first turn is routed; the quality is the
  mean of the judge's scores of both turns.
- comparisons (any that training takes): `comparisons.jsonl` or `comparisons.csv`.

Where RouteLLM's `contaminated_prompts.jsonl` lies beside a table, the prompts that it lists are left out, as RouteLLM's
own evaluation does. An evaluation set is to be whole: one bad row is a DataError that names it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from training.data.comparisons import Comparisons, Pair
from training.data.forms import Cells, number, text
from training.data.readers import load_comparisons
from training.data.tables import BadRow, DataError, opened

__all__ = ["BENCHMARKS", "PAPER_PAIR", "PAPER_PRICES", "Benchmark", "from_comparisons", "load_benchmark"]

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """`strong` and `weak`, shape (n,): the quality of the two models' answers, in [0, 1]. It is reported on the set's
    own `scale`, the values that 0 and 1 stand for.

    `costs`, shape (n, 2): dollars of the strong and the weak model's answer, None where answers are not recorded.
    `left_out` counts the prompts that do not take part.
    """

    name: str
    prompts: list[str]
    strong: Floats
    weak: Floats
    pair: Pair
    costs: Floats | None = None
    scale: tuple[float, float] = (0.0, 1.0)
    left_out: int = 0

    def __post_init__(self) -> None:
        if not self.prompts:
            raise DataError(f"no prompts are left of the set {self.name}" if self.left_out else f"{self.name} is empty")
        if not len(self.prompts) == len(self.strong) == len(self.weak):
            raise ValueError("an evaluation set needs as many prompts as qualities")

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def gain(self) -> Floats:
        """Shape (n,), in [-1, 1]: the quality of strong minus weak."""
        return self.strong - self.weak

    def reported(self, quality: float) -> float:
        """A quality on the set's own scale."""
        low, high = self.scale
        return low + quality * (high - low)

    def take(self, rows: Rows) -> Benchmark:
        """These rows; the others count as left out. DataError where there are none."""
        return replace(
            self,
            prompts=[self.prompts[i] for i in rows.tolist()],
            strong=self.strong[rows],
            weak=self.weak[rows],
            costs=None if self.costs is None else self.costs[rows],
            left_out=self.left_out + len(self) - len(rows),
        )

    def without(self, prompts: Iterable[str]) -> Benchmark:
        """The set without these prompts. DataError where nothing is left."""
        unwanted = set(prompts)
        return self.take(np.flatnonzero([prompt not in unwanted for prompt in self.prompts]))


PAPER_PAIR: Pair = ("gpt-4-1106-preview", "mistralai/Mixtral-8x7B-Instruct-v0.1")
OLD_PAIR: Pair = ("gpt-4-1106-preview", "mixtral-8x7b-instruct-v0.1")  # the same two, as older tables call them
CORRECT = ("strong_correct", "weak_correct")
RESPONSE = ("strong_response", "weak_response")
CONTAMINATED = "contaminated_prompts.jsonl"
BYTES_A_TOKEN = 4  # about, in English: good enough to compare costs by
JUDGE_SCALE = (1.0, 10.0)

Read = TypeVar("Read")
Prices = tuple[float, float]
Outcome = tuple[str, float, float, tuple[float, float] | None]  # prompt, strong, weak, dollars


def mmlu(data: Path, pair: Pair, usd_per_million: Prices) -> Benchmark:
    return _outcomes("mmlu", data, ("mmlu.csv", "mmlu_*.csv", "responses/mmlu_*.csv"), pair, usd_per_million)


def gsm8k(data: Path, pair: Pair, usd_per_million: Prices) -> Benchmark:
    return _outcomes("gsm8k", data, ("gsm8k.csv", "gsm8k_responses.csv"), pair, usd_per_million)


def mt_bench(data: Path, pair: Pair, usd_per_million: Prices) -> Benchmark:
    (questions,), (scores,) = (
        found_tables(data, "mt_bench", names, one=True)
        for names in (("mt_bench_questions.csv", "question.jsonl"), ("mt_bench_scores.csv", "judgements.jsonl"))
    )
    turns = dict(read_rows(questions, _turns))
    unwanted = contaminated(questions)
    left = {key: both for key, both in turns.items() if not unwanted & set(both)}
    judged: dict[tuple[str, str], list[float]] = {}
    for key, model, score in read_rows(scores, _score):
        judged.setdefault((key, model), []).append(score)
    strong, weak = (np.array([_mean(judged, key, model, scores) for key in left], float) for model in pair)
    prompts = [both[0] for both in left.values()]
    return Benchmark("mt-bench", prompts, strong, weak, pair, scale=JUDGE_SCALE, left_out=len(turns) - len(left))


def read_rows(path: Path, read: Callable[[Cells], Read]) -> list[Read]:
    """What `read` makes of every row of a table. DataError for the first row that cannot be used."""
    result = []
    with opened(path) as table:
        for row in table.rows:
            if isinstance(row, BadRow):
                raise DataError(str(row))
            try:
                result.append(read(row.cells))
            except ValueError as error:
                raise DataError(str(BadRow(table.name, row.number, str(error), table.unit))) from error
    return result


def contaminated(path: Path) -> set[str]:
    """The prompts that RouteLLM's list names, where one lies beside the table (or beside its folder `responses`)."""
    directory = path.parent.parent if path.parent.name == "responses" else path.parent
    listed = directory / CONTAMINATED
    if not listed.is_file():
        return set()
    return set(read_rows(listed, lambda cells: text(cells.get("eval_prompt"), "eval_prompt")))


def found_tables(data: Path, folder: str, patterns: Sequence[str], *, one: bool = False) -> list[Path]:
    """The files of the first pattern that any has, in `data` or in the set's own folder. DataError for none."""
    for directory in (data / folder, data):
        for pattern in patterns:
            for form in (pattern, f"{pattern}.gz"):
                if paths := sorted(directory.glob(form)):
                    return paths[:1] if one else paths
    raise DataError(f"{data} has none of {', '.join(patterns)}, plain or gzipped, nor has its folder {folder}")


def _outcomes(name: str, data: Path, patterns: Sequence[str], pair: Pair, usd_per_million: Prices) -> Benchmark:
    """Tables that say of each prompt how good the two answers are: 0 to 1, or true and false."""
    paths = found_tables(data, name, patterns)
    rows = [row for path in paths for row in read_rows(path, lambda cells: _outcome(cells, pair, usd_per_million))]
    known = [costs for *_, costs in rows if costs is not None]
    benchmark = Benchmark(
        name,
        [prompt for prompt, *_ in rows],
        np.array([strong for _, strong, _, _ in rows], float),
        np.array([weak for _, _, weak, _ in rows], float),
        pair,
        np.array(known, float) if rows and len(known) == len(rows) else None,
    )
    return benchmark.without(contaminated(paths[0]))


def _outcome(cells: Cells, pair: Pair, usd_per_million: Prices) -> Outcome:
    columns, answers = _columns(cells, pair)
    prompt = text(cells.get("prompt"), "prompt")
    strong, weak = (number(cells.get(column), column, 0, 1) for column in columns)
    costs = None
    if all(isinstance(cells.get(column), str) for column in answers):
        tokens = [len((prompt + cells[column]).encode("utf-8", "replace")) / BYTES_A_TOKEN for column in answers]
        costs = (tokens[0] * usd_per_million[0] / 1e6, tokens[1] * usd_per_million[1] / 1e6)
    return prompt, strong, weak, costs


def _columns(cells: Cells, pair: Pair) -> tuple[Pair, Pair]:
    """The columns that say how good the two answers are, and those that hold them."""
    if CORRECT[0] in cells:
        return CORRECT, RESPONSE
    named = OLD_PAIR if pair == PAPER_PAIR and OLD_PAIR[1] in cells else pair
    return named, (f"{named[0]}_response", f"{named[1]}_response")


def _turns(cells: Cells) -> tuple[str, tuple[str, ...]]:
    """A question's id and its turns."""
    turns: Any = cells.get("turns", [cells.get("turn_1"), cells.get("turn_2")])
    if isinstance(turns, str):
        turns = json.loads(turns)
    if not isinstance(turns, list) or not turns:
        raise ValueError("`turns` is no list of texts")
    return str(cells.get("question_id")), (text(turns[0], "turn 1"), *(str(turn) for turn in turns[1:]))


def _score(cells: Cells) -> tuple[str, str, float]:
    """A question's id, the model, and the judge's score of one turn, scaled to [0, 1]."""
    low, high = JUDGE_SCALE
    score = number(cells.get("score"), "score", low, high)
    return str(cells.get("question_id")), text(cells.get("model"), "model"), (score - low) / (high - low)


def _mean(judged: dict[tuple[str, str], list[float]], key: str, model: str, scores: Path) -> float:
    judged_scores = judged.get((key, model))
    if not judged_scores:
        models = ", ".join(sorted({name for _, name in judged}))[:300]
        raise DataError(f"{scores} has no score of question {key} for {model}; it has models {models}")
    return sum(judged_scores) / len(judged_scores)


PAPER_PRICES: Prices = (24.7, 0.24)  # dollars a million tokens of strong and weak, as the paper estimates them
COMPARISONS = "comparisons"
COMPARISON_TABLES = ("comparisons.jsonl", "comparisons.csv")
SETS = {"mmlu": mmlu, "gsm8k": gsm8k, "mt-bench": mt_bench}
BENCHMARKS = (*SETS, COMPARISONS)


def load_benchmark(
    name: str, data: Path, *, pair: Pair | None = None, usd_per_million: Prices = PAPER_PRICES
) -> Benchmark:
    """The evaluation set of that name, one of BENCHMARKS.

    `data` is the directory with its tables (the module says which); for `comparisons` also a file.
    `pair` names strong and weak where tables name models; None: the paper's two, of comparisons strong and weak.
    `usd_per_million`: their prices, for the costs of recorded answers. DataError: no such set or tables, a bad row.
    """
    if name == COMPARISONS:
        strong, weak = pair or (None, None)
        paths = found_tables(data, name, COMPARISON_TABLES) if data.is_dir() else [data]
        loaded = load_comparisons(paths, strong=strong, weak=weak)
        if loaded.bad:
            raise DataError(f"{loaded.bad[0]} ({loaded.counted['bad']} bad rows)")
        return from_comparisons(loaded.comparisons)
    if name not in SETS:
        raise DataError(f"there is no evaluation set {name[:80]!r}. Sets: {', '.join(BENCHMARKS)}")
    return SETS[name](data, pair or PAPER_PAIR, usd_per_million)


def from_comparisons(comparisons: Comparisons, name: str = COMPARISONS) -> Benchmark:
    """The comparisons of the pair as an evaluation set. A model's quality is how often its answer is preferred, ties as
    half; a prompt that was compared several times counts once, by the weighted mean. DataError where there are none."""
    comparisons.labels()  # refuses what has no pair or no rows of it, and says what to do
    assert comparisons.pair is not None
    rows, outcome = comparisons.of_pair()
    prompts, place = np.unique(comparisons.prompt[rows], return_inverse=True)
    weight = comparisons.weight[rows]
    preferred = np.bincount(place, outcome * weight) / np.bincount(place, weight)
    return Benchmark(name, [comparisons.prompts[i] for i in prompts], preferred, 1 - preferred, comparisons.pair)
