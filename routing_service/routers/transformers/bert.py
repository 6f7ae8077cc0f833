"""The bert router: an encoder with a classification head of three labels (strong wins, tie, weak wins), fine-tuned.

The win rate is P(strong) + P(tie) / 2. Of a prompt longer than the model reads, head and tail are read. A model judges
one pair; every dearer model is taken for the strong one.

An artifact's `rule` says otherwise for weights that RouteLLM published: 1 - P(tie) - P(weak), as its BERTRouter does.
`offsets` are added to the logits: they undo the weights that rare labels had in the fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from routing_service.embedding.local import Forward, minibatches
from routing_service.embedding.minibatches import Ids, Reader
from routing_service.errors import ArtifactError
from routing_service.routers.artifact import Artifact, Tensors, parsed
from routing_service.routers.base import Pair, PairwiseRouter, Vector
from routing_service.routers.calibration import Calibration
from routing_service.routers.transformers.bert_forward import (
    LABELS,
    Classifier,
    Floats,
    Precision,
    load_forward,
    max_positions,
)
from routing_service.settings import Settings

Rows = npt.NDArray[np.intp]
Rule = Literal["ties_as_half", "routellm"]

TRANSFORMER = "transformer"  # the model's part of the metadata
TOKENIZER = "tokenizer/tokenizer.json"
CHUNK = 4096  # prompts that are sorted by length together
LEAST_TOKENS, MOST_TOKENS = 8, 32_768
NAMES = ("strong", "tie", "weak")
Offset = Annotated[float, Field(gt=-100, lt=100)]

__all__ = ["BertRouter", "Figures", "Rule", "reader_of"]


@dataclass(frozen=True, slots=True)
class Figures:
    """How prompts are read and logits become win rates."""

    max_tokens: Annotated[int, Field(ge=LEAST_TOKENS, le=MOST_TOKENS)] = 512
    rule: Rule = "ties_as_half"
    offsets: Annotated[tuple[Offset, ...], Field(min_length=LABELS, max_length=LABELS)] = (0.0,) * LABELS
    precision: Precision = "auto"

    def as_dict(self) -> dict[str, Any]:
        return {
            "max_tokens": self.max_tokens,
            "rule": self.rule,
            "offsets": list(self.offsets),
            "precision": self.precision,
        }

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """What `as_dict` gave. ArtifactError for anything else."""
        return parsed(cls, values, "bert artifact's figures")


class BertRouter(PairwiseRouter):
    name = "bert"

    def __init__(
        self,
        classifier: Classifier,
        figures: Figures,
        *,
        settings: Settings,
        metadata: dict[str, Any] | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        """ArtifactError where the classifier's parts do not fit each other, or have other than three labels."""
        self.classifier = classifier
        self.figures = figures
        self.metadata = metadata or {}
        self.calibration = calibration or Calibration()
        self._settings = settings
        self._reader, self._nothing = _reader(classifier, figures)

    @cached_property
    def _forward(self) -> Forward:
        return load_forward(self.classifier, self.figures.precision, self._settings)

    def raw_win_rates(self, prompts: Sequence[str], pairs: Sequence[Pair]) -> Vector:
        probabilities = self.probabilities(prompts)
        ties = 0.5 if self.figures.rule == "ties_as_half" else 0.0
        return np.repeat((probabilities[:, 0] + ties * probabilities[:, 1])[:, None], len(pairs), axis=1)

    def probabilities(self, prompts: Sequence[str]) -> Vector:
        """Of the three labels, shape (prompts, 3)."""
        logits = np.empty((len(prompts), LABELS))
        for start in range(0, len(prompts), CHUNK):
            logits[start : start + CHUNK] = self._logits(prompts[start : start + CHUNK])
        logits += np.array(self.figures.offsets)
        shares: Vector = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        return shares

    def _logits(self, prompts: Sequence[str]) -> Floats:
        ids = [one if len(one) else self._nothing for one in self._reader.read(prompts)[0]]
        lengths = np.array([len(one) for one in ids])
        together = list(minibatches(lengths, self._forward.tokens))
        logits = np.empty((len(prompts), LABELS), np.float32)

        def fill(rows: Rows) -> None:
            logits[rows] = self._forward.run(*_padded(ids, rows))

        with ThreadPoolExecutor(self._forward.threads) as pool:
            list(pool.map(fill, together))
        return logits

    def explain(self, prompt: str) -> dict[str, Any]:
        """What changes when a part of the prompt is gone, and the probability of each label before calibration."""
        from routing_service.routers.occlusion import explain_by_occlusion

        labels = dict(zip(NAMES, self.probabilities([prompt])[0].tolist(), strict=True))
        return explain_by_occlusion(self, prompt) | {"labels": labels}

    def pack(self) -> tuple[Tensors, dict[str, Any]]:
        own = {TRANSFORMER: {"config": self.classifier.config}, "figures": self.figures.as_dict()}
        return dict(self.classifier.tensors), {**self.metadata, **own, "calibration": self.calibration.as_dict()}

    @classmethod
    def unpack(cls, saved: Artifact, settings: Settings) -> Self:
        metadata = dict(saved.metadata)
        figures = Figures.from_dict(metadata.pop("figures", None))
        calibration = Calibration.from_dict(metadata.pop("calibration", None))
        part = metadata.pop(TRANSFORMER, None)
        config = part.get("config") if isinstance(part, dict) else None
        if not isinstance(config, dict):
            raise ArtifactError("the bert artifact does not say which model it holds")

        def model() -> Any:
            from transformers import AutoModelForSequenceClassification

            from routing_service.routers.transformers.model_files import unpack_model

            return unpack_model(saved, AutoModelForSequenceClassification)

        classifier = Classifier(config, saved.tensors, model)
        router = cls(classifier, figures, settings=settings, metadata=metadata, calibration=calibration)
        assert router._forward  # what is wrong with the weights shows when they are loaded, not in the first minibatch
        return router


def _reader(classifier: Classifier, figures: Figures) -> tuple[Reader, Ids]:
    """`reader_of` the classifier's own tokenizer."""
    config = classifier.config
    labels = config.get("id2label")
    if not isinstance(labels, Mapping) or len(labels) != LABELS:
        raise ArtifactError(f"the bert artifact's model has other than {LABELS} labels")
    from tokenizers import Tokenizer

    try:
        content = np.asarray(classifier.tensors[TOKENIZER], np.uint8).tobytes()
        tokenizer = Tokenizer.from_str(content.decode())
    except Exception as error:  # tokenizers raises bare exceptions
        raise ArtifactError(f"the bert artifact's tokenizer cannot be rebuilt: {str(error)[:200]}") from error
    size = config.get("vocab_size")
    if not isinstance(size, int) or tokenizer.get_vocab_size() > size:
        raise ArtifactError("the bert artifact's tokenizer has tokens that its model does not know")
    return reader_of(tokenizer, config, figures.max_tokens)


def reader_of(tokenizer: Any, config: Mapping[str, Any], max_tokens: int) -> tuple[Reader, Ids]:
    """What reads prompts for a model, and what a prompt of no token is read as: the special tokens alone."""
    reader = Reader(tokenizer, min(max_tokens, max_positions(config) or max_tokens))
    return reader, np.array(tokenizer.encode("").ids or [0], np.int64)


def _padded(ids: list[Ids], rows: Rows) -> tuple[Ids, Ids]:
    """Ids and mask of those rows; padding is id 0, which the mask hides."""
    lengths = np.array([len(ids[row]) for row in rows])
    padded = np.zeros((len(rows), int(lengths.max())), np.int64)
    mask = np.arange(padded.shape[1]) < lengths[:, None]
    padded[mask] = np.concatenate([ids[row] for row in rows])
    return padded, mask.astype(np.int64)
