"""What is alike: similarity of sets of prompts, and training data without what an evaluation set holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from routing_service.embedding.registry import Floats, Progress
from tests.support.routers.labelled import labels
from training.data import decontamination as module
from training.data.comparisons import Comparisons
from training.data.decontamination import decontaminated, nearest, normalised, similarity
from training.data.tables import DataError


class Directions:
    """An encoder whose texts are angles in degrees."""

    spec, identity, dimensions = "directions", "directions-1", 2

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Floats:
        self.texts += texts
        angles = np.radians([float(text) for text in texts])
        return np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)


def compared(*prompts: str) -> Comparisons:
    return Comparisons.from_labels(labels(list(prompts), [n % 2 for n in range(len(prompts))]))


def test_similarity_is_the_mean_cosine_to_the_nearest_and_not_symmetric() -> None:
    similar = similarity(["0", "60"], ["0", "180"], Directions())
    assert similar.mean == pytest.approx(0.75)  # 1, and cos 60
    assert similar.which.tolist() == [0, 0]
    assert similarity(["0", "180"], ["0", "60"], Directions()).mean == pytest.approx((1 - 0.5) / 2)
    with pytest.raises(ValueError, match="may be empty"):
        similarity(["0"], [], Directions())


def test_blocks_give_what_one_product_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((n, 5)).astype(np.float32) for n in (23, 31))
    a, b = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (a, b))
    monkeypatch.setattr(module, "ROWS", 4)
    monkeypatch.setattr(module, "COLUMNS", 7)
    closest = nearest(a, b)
    assert closest.nearest == pytest.approx((a @ b.T).max(1), abs=1e-6)
    assert closest.which.tolist() == (a @ b.T).argmax(1).tolist()


def test_what_an_evaluation_set_holds_is_left_out_and_counted() -> None:
    data = compared("What is “one”?", "two", 'what  is "one"?\n', "three", "two")
    kept, counted = decontaminated(data, ['What is "ONE"?', "four"])
    assert kept.prompts == ["two", "three"]
    assert (len(kept), counted.same, counted.similar, counted.rows) == (3, 2, 0, 2)
    assert (counted.against, counted.encoder, counted.similarity) == (2, None, None)


def test_too_similar_prompts_go_too_where_there_is_an_encoder() -> None:
    encoder = Directions()
    kept, counted = decontaminated(compared("0", "10", "45", "90"), ["0"], encoder=encoder, similarity=0.95)
    assert kept.prompts == ["45", "90"]
    assert (counted.same, counted.similar, counted.rows) == (1, 1, 2)
    assert (counted.encoder, counted.similarity) == ("directions", 0.95)
    assert sorted(encoder.texts) == ["0", "10", "45", "90"]  # what is the same needs no vector


def test_signs_of_arithmetic_are_no_typography() -> None:
    assert normalised("Ｆind  x − 1") == normalised("find x - 1")
    assert normalised("x + 1") != normalised("x - 1")


def test_nothing_left_is_refused() -> None:
    with pytest.raises(DataError, match="no comparison is left"):
        decontaminated(compared("one", "two"), ["ONE", "two "])


def test_an_empty_evaluation_set_leaves_nothing_out() -> None:
    kept, counted = decontaminated(compared("0", "1"), [], encoder=Directions())
    assert (len(kept), counted.rows) == (2, 0)
