"""Scoring by a fine-tuned encoder: RouteLLM's numbers, minibatches, integers, bad artifacts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routing_service.errors import ArtifactError
from routing_service.routers.artifact import read
from routing_service.routers.calibration import Calibration
from routing_service.routers.registry import load_router
from routing_service.routers.transformers.bert import BertRouter, Figures
from routing_service.settings import Settings
from tests.support.routers.labelled import ODD
from tests.support.routers.tiny_classifier import as_routellm, changed, tiny_classifier, tiny_router
from tests.support.routers.tiny_encoder import texts

PROMPTS = ["", "w1", *texts(58, 1)]
PAIR = [("strong", "weak")]
FLOAT = Figures(64, precision="float")


def raw(router: BertRouter, prompts: list[str]) -> list[float]:
    rates: list[float] = router.raw_win_rates(prompts, PAIR)[:, 0].tolist()
    return rates


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tiny_router().save(tmp_path / "r")
    return tmp_path / "r"


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
def test_in_floats_it_gives_routellms_win_rates(kind: str) -> None:
    router = tiny_router(kind, replace(FLOAT, rule="routellm"))
    expected = [as_routellm(tiny_classifier(kind), prompt) for prompt in PROMPTS]
    assert raw(router, PROMPTS) == pytest.approx(expected, abs=1e-5)
    assert np.ptp(expected) > 0.02


def test_ties_count_as_half_unless_the_rule_says_otherwise() -> None:
    router = tiny_router()
    labels = router.probabilities(PROMPTS)
    assert labels.sum(axis=1) == pytest.approx(np.ones(60))
    assert raw(router, PROMPTS) == pytest.approx(labels[:, 0] + labels[:, 1] / 2)


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
def test_integers_agree_with_floats(kind: str) -> None:
    floats, integers = (raw(tiny_router(kind, replace(FLOAT, precision=p)), PROMPTS) for p in ("float", "int8"))
    assert integers == pytest.approx(floats, abs=0.1)
    assert integers != floats
    assert np.corrcoef(floats, integers)[0, 1] > 0.98


@pytest.mark.parametrize("precision", ["float", "int8"])
def test_a_prompt_gets_the_same_estimate_alone_and_among_others(precision: Any) -> None:
    router = tiny_router(figures=replace(FLOAT, precision=precision))
    alone = [raw(router, [prompt])[0] for prompt in PROMPTS[:8]]
    assert raw(router, PROMPTS)[:8] == pytest.approx(alone, abs=1e-5)


def test_auto_is_integers_on_a_cpu_where_the_model_is_of_a_known_kind() -> None:
    auto, integers = (raw(tiny_router("bert", replace(FLOAT, precision=p)), PROMPTS) for p in ("auto", "int8"))
    assert auto == integers
    other: dict[str, Any] = {"hidden_act": "relu"}
    auto, floats = (raw(tiny_router("bert", replace(FLOAT, precision=p), **other), PROMPTS) for p in ("auto", "float"))
    assert auto == floats
    with pytest.raises(ArtifactError, match="int8 needs"):
        raw(tiny_router("bert", replace(FLOAT, precision="int8"), **other), PROMPTS)


@pytest.mark.parametrize("precision", ["float", "int8"])
def test_odd_prompts_get_a_win_rate(precision: Any) -> None:
    router = tiny_router(figures=replace(FLOAT, precision=precision))
    rates = router.win_rates(ODD, "strong", "weak")
    assert np.isfinite(rates).all()
    assert ((rates >= 0) & (rates <= 1)).all()


def test_of_a_long_prompt_head_and_tail_are_read() -> None:
    router = tiny_router()
    head, middle, tail = "w1 " * 60, "w2 " * 9000, "w3 " * 60
    whole = raw(router, [head + middle + tail])
    assert raw(router, [head + "w4 " * 9000 + tail]) == whole
    assert raw(router, [head + middle + "w5 " * 60]) != whole
    assert raw(router, ["w6 " * 60 + middle + tail]) != whole


def test_no_prompts_give_no_win_rates() -> None:
    quality, std = tiny_router().score([], ["weak", "strong"])
    assert quality.shape == std.shape == (0, 2)


def test_every_dearer_model_is_taken_for_the_strong_one() -> None:
    router = tiny_router()
    quality, std = router.score(PROMPTS[:3], ["weak", "middle", "strong"])
    assert (quality[:, 0] == 0.5).all()
    assert quality[:, 1].tolist() == quality[:, 2].tolist() == router.win_rates(PROMPTS[:3], "strong", "weak").tolist()
    assert std[:, 1].tolist() == [router.calibration.std] * 3


def test_offsets_move_the_labels_probabilities() -> None:
    plain = tiny_router().probabilities(PROMPTS)
    moved = tiny_router(figures=replace(FLOAT, offsets=(1.0, 0.0, 0.0))).probabilities(PROMPTS)
    assert np.log(moved / plain)[:, 0] - np.log(moved / plain)[:, 1] == pytest.approx(np.ones(60))


def test_it_explains_by_segments_and_labels() -> None:
    explained = tiny_router().explain("w1 w2 w3. w4 w5 w6.")
    assert explained["router"] == "bert"
    assert sum(explained["labels"].values()) == pytest.approx(1)
    assert {segment["text"] for segment in explained["segments"]} <= {"w1", "w2", "w3.", "w4", "w5", "w6."}


@pytest.mark.parametrize("precision", ["float", "int8"])
def test_a_saved_router_is_the_same_when_loaded_and_saved_again(tmp_path: Path, precision: Any) -> None:
    router = tiny_router(figures=Figures(40, "routellm", (0.5, 0.0, -0.25), precision))
    router.metadata = {"seed": 3}
    router.calibration = Calibration(0.9, 0.1, 0.05)
    expected = router.win_rates(PROMPTS, "strong", "weak").tolist()
    for name in ("first", "second"):
        router.save(tmp_path / name)
        loaded = load_router(tmp_path / name, Settings())
        assert isinstance(loaded, BertRouter)
        router = loaded
        assert router.win_rates(PROMPTS, "strong", "weak").tolist() == pytest.approx(expected, abs=1e-6)
        assert (router.metadata, router.calibration.std) == ({"seed": 3}, 0.05)
    assert read(tmp_path / "first").digest == read(tmp_path / "second").digest


FIGURES = {"max_tokens": 64, "rule": "ties_as_half", "offsets": [0, 0, 0], "precision": "float"}
CONFIG = {"model_type": "xlm-roberta", "id2label": {"0": "a", "1": "b", "2": "c"}, "vocab_size": 64}


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"figures": None}, "figures"),
        ({"figures": FIGURES | {"rule": "coin"}}, "rule"),
        ({"figures": FIGURES | {"rule": ["coin"]}}, "rule"),
        ({"figures": FIGURES | {"precision": "int4"}}, "precision"),
        ({"figures": FIGURES | {"offsets": [0, 0]}}, "offsets"),
        ({"figures": FIGURES | {"offsets": [0, 0, "x"]}}, "offsets"),
        ({"figures": FIGURES | {"offsets": [0, 0, 1e300]}}, "offsets"),
        ({"figures": FIGURES | {"max_tokens": 0}}, "max_tokens"),
        ({"figures": FIGURES | {"max_tokens": "x"}}, "max_tokens"),
        ({"transformer": None}, "which model"),
        ({"transformer": {"config": CONFIG | {"id2label": {"0": "a"}}}}, "3 labels"),
        ({"transformer": {"config": CONFIG | {"model_type": "oracle"}}}, "no model's"),
        ({"transformer": {"config": CONFIG | {"vocab_size": 10}}}, "tokens that its model does not know"),
        ({"transformer": {"config": CONFIG | {"hidden_size": 8}}}, "rebuilt"),
        ({"transformer": {"config": CONFIG | {"hidden_size": "x"}}}, "no model's"),
        ({"calibration": {"scale": 0}}, "calibration"),
    ],
)
def test_metadata_that_is_no_bert_router_is_refused(saved: Path, metadata: dict[str, Any], reason: str) -> None:
    changed(saved, **metadata)
    with pytest.raises(ArtifactError, match=reason):
        load_router(saved, Settings())


HEAD = "weights/classifier.out_proj.weight"
LAYER = "weights/roberta.encoder.layer.0.output.dense.weight"


@pytest.mark.parametrize("precision", ["float", "int8"])
@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({HEAD: None}, "out_proj"),
        ({LAYER: None}, "output.dense"),
        ({HEAD: np.full((3, 32), np.nan, np.float32)}, "not finite"),
        ({LAYER: np.full((32, 64), np.inf, np.float32)}, "not finite"),
        ({HEAD: np.zeros((3, 5), np.float32)}, "rebuilt|fit its configuration"),
        ({LAYER: np.zeros((32, 5), np.float32)}, "rebuilt|fit its configuration"),
        ({"tokenizer/tokenizer.json": None}, "tokenizer"),
        ({"tokenizer/tokenizer.json": np.frombuffer(b"{}", np.uint8)}, "tokenizer"),
        ({"tokenizer/tokenizer.json": np.frombuffer(b"\xff", np.uint8)}, "tokenizer"),
    ],
)
def test_tensors_that_are_no_bert_router_are_refused(
    saved: Path, tensors: dict[str, Any], reason: str, precision: str
) -> None:
    changed(saved, tensors, figures=FIGURES | {"precision": precision})
    with pytest.raises(ArtifactError, match=reason):
        load_router(saved, Settings())
