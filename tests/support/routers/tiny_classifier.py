"""A sequence classifier of a few thousand weights, in the layout in which RouteLLM published its BERT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from routing_service.routers.artifact import read, write
from routing_service.routers.transformers.bert import BertRouter, Figures
from routing_service.routers.transformers.bert_forward import Classifier
from routing_service.routers.transformers.model_files import KEY, pack_transformer, quiet
from routing_service.settings import Settings
from tests.support.routers.tiny_encoder import tokenizer
from training.fit.training_loop import seeded

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "type_vocab_size": 1,
    "max_position_embeddings": 66,
    "pad_token_id": 0,
    "num_labels": 3,
}


def tiny_tokenizer(max_tokens: int = 64) -> Any:
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    fast: Any = PreTrainedTokenizerFast
    return fast(tokenizer_object=tokenizer(), model_max_length=max_tokens, **special)


def tiny_classifier(kind: str = "xlm-roberta", seed: int = 0, **sizes: Any) -> Any:
    """With weights large enough for its answers to differ."""
    with seeded(seed):
        model: Any
        if kind == "bert":
            model = BertForSequenceClassification(BertConfig(**SIZES | sizes))
        else:
            model = XLMRobertaForSequenceClassification(XLMRobertaConfig(**SIZES | sizes))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim > 1:
                    weight.copy_(torch.randn_like(weight) / weight.shape[-1] ** 0.5)
                elif "LayerNorm" not in name:
                    weight.copy_(torch.randn_like(weight) / 4)
    return model.eval()


def tiny_router(kind: str = "xlm-roberta", figures: Figures | None = None, **sizes: Any) -> BertRouter:
    model = tiny_classifier(kind, **sizes)
    tensors, part = pack_transformer(model, tiny_tokenizer())
    classifier = Classifier(part[KEY]["config"], tensors, lambda: model)
    return BertRouter(classifier, figures or Figures(64, precision="float"), settings=Settings())


def checkpoint(directory: Path, kind: str = "xlm-roberta", **sizes: Any) -> Any:
    """The directory, and the model in it."""
    model = tiny_classifier(kind, **sizes)
    with quiet():
        model.save_pretrained(directory)
        tiny_tokenizer().save_pretrained(directory)
    return model


def as_routellm(model: Any, prompt: str) -> float:
    """`BERTRouter.calculate_strong_win_rate` of RouteLLM 0.2.0."""
    inputs = tiny_tokenizer()(prompt, return_tensors="pt", padding=True, truncation=True, return_token_type_ids=False)
    with torch.no_grad():
        logits = model(**inputs).logits.numpy()[0]
    exp_scores = np.exp(logits - np.max(logits))
    return float(1 - np.sum((exp_scores / np.sum(exp_scores))[-2:]))


def changed(saved: Path, tensors: dict[str, Any] | None = None, **metadata: Any) -> None:
    """Write the artifact anew with other tensors (None: without it) and metadata, its digest right."""
    artifact = read(saved)
    kept = {name: np.array(tensor) for name, tensor in artifact.tensors.items()} | (tensors or {})
    write(saved, artifact.kind, {n: t for n, t in kept.items() if t is not None}, artifact.metadata | metadata)
