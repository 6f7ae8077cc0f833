"""Small sets of labels to fit routers on, files of them, and prompts of the kinds that break things."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.data.labels import Labels
from training.data.readers import Loaded, load_comparisons

ODD = ["", "ü", "一个正方形的面积是多少？", "ما هو حاصل ضرب ٦ في ٧؟", "\ud800", "9" * 5000, "why " * 25_000, "\nA. "]


def labels(prompts: list[str], gain: list[float], weight: list[float] | None = None) -> Labels:
    weights = np.array(weight or [1.0] * len(prompts), float)
    return Labels(prompts, np.array(gain, float), weights, ["golden"] * len(prompts))


def sums(n: int, seed: int = 0) -> Labels:
    """Questions on rings are hard for the weak model, questions on colours for neither."""
    draw = np.random.default_rng(seed)
    hard = draw.random(n) < 0.5
    topics = [("ring", "field", "ideal"), ("colour", "shade", "paint")]
    words = [draw.choice(topics[0 if h else 1], 4) for h in hard]
    prompts = [f"Tell me {number} things of {' '.join(w)}" for number, w in enumerate(words)]
    return labels(prompts, np.where(hard, draw.random(n) < 0.8, draw.random(n) < 0.1).astype(float).tolist())


OUTCOMES = "prompt,strong_correct,weak_correct\n"  # the header of a table of outcomes


def table(rows: Sequence[Sequence[object]], delimiter: str = ",") -> str:
    """The text of a CSV file."""
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows(rows)
    return out.getvalue()


def lines(*values: object) -> str:
    """The text of a file of JSON lines."""
    return "".join(json.dumps(value) + "\n" for value in values)


def load(
    directory: Path, content: str | bytes, name: str = "data.csv", strong: str | None = None, weak: str | None = None
) -> Loaded:
    """What a file of that content holds."""
    path = directory / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_comparisons([path], strong=strong, weak=weak)


def loaded_labels(loaded: Loaded) -> Labels:
    return loaded.comparisons.labels()
