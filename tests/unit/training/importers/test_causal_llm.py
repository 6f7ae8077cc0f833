"""RouteLLM's checkpoint of a causal LLM, imported: the same numbers as its own way of scoring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from routing_service.errors import ArtifactError
from routing_service.routers.transformers.causal_llm import CausalLLMRouter
from routing_service.routers.transformers.causal_prompts import SCORES
from routing_service.routers.transformers.model_files import quiet
from routing_service.settings import Settings
from tests.support.routers.tiny_llm import tiny_model, tiny_tokenizer
from training.importers.causal_llm import import_causal_llm

SYSTEM = "Judge the question.\n"
CLASSIFIER = "[Question]\n{question}\n\nPrediction as {{rating}}:\n"
HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"
PROMPTS = ["What is 2 + 2?", "Prove that there are infinitely many primes.", "naïve 東京", "Line one.\nLine two!"]


def checkpoint(directory: Path, *, labelled: bool = True, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """A directory as RouteLLM published it, of a tiny model that answers with a label where it is asked to."""
    tokenizer = tiny_tokenizer(chat=False, added=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"))
    saved = tokenizer if not labelled else None
    if saved is not None:
        with quiet():
            saved.save_pretrained(directory)
    tokenizer.add_tokens(list(SCORES.labels), special_tokens=True)
    model = tiny_model(tokenizer, tied=False)
    with torch.no_grad():
        model.lm_head.weight[-5:] *= 8
    model.to(dtype)
    with quiet():
        model.save_pretrained(directory)
        if saved is None:
            tokenizer.save_pretrained(directory)
    (directory / "system_ft_v5.txt").write_text(SYSTEM)
    (directory / "classifier_ft_v5.txt").write_text(CLASSIFIER)
    return model, tokenizer


def as_routellm(model: Any, tokenizer: Any, prompt: str) -> float:
    """`CausalLLMClassifier` on a model that has written the assistant's header; NaN where no label follows."""
    asked = CLASSIFIER.format(question=prompt).strip()
    text = HEADER.format("system") + SYSTEM.strip() + "<|eot_id|>" + HEADER.format("user") + asked + "<|eot_id|>"
    ids = torch.tensor([tokenizer.encode(text + HEADER.format("assistant"))])
    with torch.no_grad():
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False,
            pad_token_id=tokenizer.eos_token_id, output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
    first_label = len(tokenizer) - 5
    if output.sequences[0, ids.shape[1]] < first_label:
        return float("nan")
    scores = output.scores[0][0].numpy()[first_label:]
    exponents = np.exp(scores - np.max(scores))
    return float(1 - (exponents / exponents.sum())[3:].sum())


def test_an_imported_checkpoint_scores_as_routellm_does(tmp_path: Path) -> None:
    model, tokenizer = checkpoint(tmp_path / "published")
    router = import_causal_llm(tmp_path / "published", Settings())
    router.save(tmp_path / "router")
    loaded = CausalLLMRouter.load(tmp_path / "router")
    expected = np.array([as_routellm(model, tokenizer, prompt) for prompt in PROMPTS])
    labelled = np.isfinite(expected)
    assert labelled.sum() >= 2
    rates = loaded.win_rates(PROMPTS, "strong", "weak")
    np.testing.assert_allclose(rates[labelled], expected[labelled], atol=1e-5)
    assert loaded.judge.labels.shape == (5, 32)
    assert not any("lm_head" in name for name in loaded.pack()[0])


def test_labels_that_the_tokenizers_files_lack_are_added_as_routellm_adds_them(tmp_path: Path) -> None:
    checkpoint(tmp_path / "with")
    checkpoint(tmp_path / "without", labelled=False)
    rates = [
        import_causal_llm(tmp_path / name, Settings()).win_rates(PROMPTS, "s", "w") for name in ("with", "without")
    ]
    np.testing.assert_allclose(rates[0], rates[1], atol=1e-6)


def test_bfloat16_stays_bfloat16_in_the_artifact(tmp_path: Path) -> None:
    checkpoint(tmp_path / "published", dtype=torch.bfloat16)
    import_causal_llm(tmp_path / "published", Settings()).save(tmp_path / "router")
    router = CausalLLMRouter.load(tmp_path / "router")
    assert router.judge.stored == torch.bfloat16
    assert {p.dtype for p in router.judge.body.parameters()} == {torch.float32}
    assert np.isfinite(router.win_rates(PROMPTS, "s", "w")).all()


def remove(name: str) -> Any:
    return lambda path: (path / name).unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove("system_ft_v5.txt"), "system_ft_v5"),
        (remove("config.json"), "no checkpoint"),
        (remove("model.safetensors"), "no checkpoint"),
        (lambda path: (path / "model.safetensors").rename(path / "pytorch_model.bin"), "pickled"),
        (lambda path: (path / "model.safetensors").write_bytes(b"short"), "no checkpoint"),
        (lambda path: (path / "classifier_ft_v5.txt").write_text("no place for it"), "once"),
        (lambda path: (path / "classifier_ft_v5.txt").write_text("{question} {answer}"), "question"),
        (lambda path: (path / "classifier_ft_v5.txt").write_bytes(b"\xff{question}"), "UTF-8"),
    ],
)
def test_a_directory_that_is_no_such_checkpoint_is_refused(tmp_path: Path, damage: Any, words: str) -> None:
    checkpoint(tmp_path / "published")
    damage(tmp_path / "published")
    with pytest.raises(ArtifactError, match=words):
        import_causal_llm(tmp_path / "published", Settings())


def test_a_model_without_the_labels_is_refused(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(chat=False)
    with quiet():
        tiny_model(tokenizer).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
    (tmp_path / "system_ft_v5.txt").write_text(SYSTEM)
    (tmp_path / "classifier_ft_v5.txt").write_text(CLASSIFIER)
    with pytest.raises(ArtifactError, match="vocabulary ends"):
        import_causal_llm(tmp_path, Settings())
