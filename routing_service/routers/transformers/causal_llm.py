"""The causal_llm router: a language model is asked which answer will be better, and the next token is its verdict.

The win rate is the mean of what the labels stand for, weighted by a softmax over the label tokens alone. No text is
generated, and of the output layer only the labels' rows are kept: nothing ever reads a label, so that is all a token
that is added to the vocabulary needs. The keys and values of the instructions, with which every row begins, are
computed once. Float32 or 8-bit integers on a CPU, bfloat16 on CUDA.

A model judges one pair; every dearer model is taken for the strong one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Self, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import AutoModel

from routing_service import device
from routing_service.errors import ArtifactError, ScoringError
from routing_service.routers.artifact import Artifact, Tensors
from routing_service.routers.base import Pair, PairwiseRouter, Vector
from routing_service.routers.calibration import Calibration
from routing_service.routers.occlusion import explain_by_occlusion
from routing_service.routers.transformers import int8_linear
from routing_service.routers.transformers.causal_prompts import PromptTokens, Question
from routing_service.routers.transformers.model_files import (
    KEY,
    WEIGHTS,
    pack_transformer,
    unpack_model,
    unpack_tokenizer,
)
from routing_service.routers.transformers.prefix_cache import Prefix, last_hidden, minibatches, prefill
from routing_service.settings import Settings

CHUNK = 2048  # prompts that are sorted by length together
MINIBATCH_TOKENS = {"cpu": 512, "cuda": 16_384}

Precision = Literal["float", "int8"]
Probabilities = npt.NDArray[np.float64]

__all__ = ["CausalLLMRouter", "Judge", "Precision"]


@dataclass(frozen=True, slots=True)
class Judge:
    """`body` gives hidden states; `labels` (labels, hidden) and `bias` (labels,) turn the last one into logits.

    `stored`: the type of the body's weights in the artifact, which none of them loses by.
    """

    body: Any
    tokenizer: Any
    labels: Tensor
    bias: Tensor
    stored: torch.dtype = torch.float32

    def moved(self, where: torch.device, stored: torch.dtype) -> Judge:
        """The same, ready to compute there, with the weights as an artifact that stores them so gives them back."""
        body = self.body.to(where)
        for parameter in body.parameters():  # buffers keep their type: rounded positions are others
            parameter.data = parameter.data.to(stored).to(device.compute_dtype(where))
        return replace(self, body=body, labels=self.labels.float().cpu(), bias=self.bias.float().cpu(), stored=stored)


class CausalLLMRouter(PairwiseRouter):
    name = "causal_llm"

    def __init__(
        self,
        judge: Judge,
        question: Question,
        *,
        precision: Precision = "float",
        metadata: dict[str, Any] | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        """ScoringError where the question leaves no room for a prompt."""
        self.judge = judge
        self.question = question
        self.precision = precision
        self.metadata = metadata or {}
        self.calibration = calibration or Calibration()
        self.prompts = PromptTokens(judge.tokenizer, question)
        self._wins = np.array(question.wins)

    @cached_property
    def _ready(self) -> tuple[Any, Prefix]:
        """The body that scores, and the instructions as the float one sees them."""
        body = self.judge.body
        in_integers = self.precision == "int8" and body.device.type == "cpu" and int8_linear.supported()
        with torch.inference_mode():
            if not in_integers:
                return body, prefill(body, self.prompts.prefix)
            with int8_linear.observed(body) as inputs:
                prefix = prefill(body, self.prompts.prefix)
            return int8_linear.quantized(body, inputs), prefix

    def raw_win_rates(self, prompts: Sequence[str], pairs: Sequence[Pair]) -> Vector:
        rates = self.probabilities(prompts) @ self._wins
        return np.repeat(rates[:, None], len(pairs), axis=1)

    def probabilities(self, prompts: Sequence[str]) -> Probabilities:
        """Of the labels, shape (prompts, labels). ScoringError where a minibatch does not fit into memory."""
        by_prompt = np.empty((len(prompts), len(self._wins)))
        for start in range(0, len(prompts), CHUNK):
            by_prompt[start : start + CHUNK] = self._chunk(prompts[start : start + CHUNK])
        return by_prompt

    def states(self, prompts: Sequence[str]) -> Tensor:
        """What the model makes of each prompt at the position of its verdict, shape (prompts, hidden), float32, on the
        CPU. ScoringError where a minibatch does not fit into memory."""
        rows = self.prompts.rows(prompts)
        body, prefix = self._ready
        last_states = torch.empty((len(rows), self.judge.labels.shape[1]))
        with torch.inference_mode():
            for minibatch in minibatches(rows, prefix, MINIBATCH_TOKENS[body.device.type]):
                try:
                    hidden = last_hidden(body, [rows[i] for i in minibatch.rows], prefix, minibatch.shared)
                except torch.OutOfMemoryError as error:
                    raise ScoringError(f"the {self.name} router needs more memory than the device has") from error
                last_states[minibatch.rows] = hidden.float().cpu()
        return last_states

    def _chunk(self, prompts: Sequence[str]) -> Probabilities:
        logits = self.states(prompts) @ self.judge.labels.float().cpu().T + self.judge.bias.float().cpu()
        probabilities: Probabilities = logits.double().softmax(-1).numpy()
        return probabilities

    def explain(self, prompt: str) -> dict[str, Any]:
        """What changes when a part of the prompt is gone, and the probability of each label."""
        labels = dict(zip(self.question.labels, self.probabilities([prompt])[0].tolist(), strict=True))
        return explain_by_occlusion(self, prompt) | {"labels": labels}

    def pack(self) -> tuple[Tensors, dict[str, Any]]:
        tensors, files = pack_transformer(self.judge.body, self.judge.tokenizer)
        for name, tensor in tensors.items():
            if name.startswith(WEIGHTS) and tensor.is_floating_point():
                tensors[name] = tensor.to(self.judge.stored)
        tensors |= {"labels": self.judge.labels, "bias": self.judge.bias}
        stored = str(self.judge.stored).removeprefix("torch.")
        own = {"question": self.question.as_dict(), "precision": self.precision, "stored": stored}
        return tensors, {**self.metadata, **files, **own, "calibration": self.calibration.as_dict()}

    @classmethod
    def unpack(cls, saved: Artifact, settings: Settings) -> Self:
        metadata = dict(saved.metadata)
        question = Question.from_dict(metadata.pop("question", None))
        calibration = Calibration.from_dict(metadata.pop("calibration", None))
        precision = metadata.pop("precision", "float")
        if precision not in get_args(Precision):
            raise ArtifactError(f"the precision is none of {', '.join(get_args(Precision))}")
        where = device.choose(settings.routing.device)
        stored = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(str(metadata.pop("stored", "")))
        if stored is None:
            raise ArtifactError("the weights are stored neither as float32 nor as bfloat16")
        body = unpack_model(saved, AutoModel, dtype=device.compute_dtype(where)).to(where)
        labels, bias = saved.torch_tensor("labels"), saved.torch_tensor("bias")
        count, hidden = len(question.labels), body.config.get_text_config().hidden_size
        if labels.shape != (count, hidden) or bias.shape != (count,):
            raise ArtifactError(f"the {cls.name} artifact's labels do not fit its question or its model")
        tokenizer = unpack_tokenizer(saved)
        if len(tokenizer) > body.get_input_embeddings().num_embeddings:
            raise ArtifactError(f"the {cls.name} artifact's tokenizer has tokens that its model does not know")
        metadata.pop(KEY)
        judge = Judge(body, tokenizer, labels.clone(), bias.clone(), stored)
        try:
            return cls(
                judge, question, precision=cast(Precision, precision), metadata=metadata, calibration=calibration
            )
        except ScoringError as error:
            raise ArtifactError(f"the {cls.name} artifact's question cannot be asked: {error}") from None
