"""Fitting the bert router: full fine-tuning of an encoder with a classification head of three labels.

A gain in [-1, 1] is a distribution over strong wins (1), tie (0) and weak wins (-1), linear between neighbours: .3 is
30 % strong wins and 70 % tie, so that its win rate, ties as half, is that of the gain. Labels of one prompt are one
example. Rare labels weigh more in the loss, by the inverse of their frequency within bounds, and scoring undoes what
that does to the probabilities.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from routing_service import device
from routing_service.embedding.minibatches import Ids, Reader
from routing_service.embedding.model_files import find_model
from routing_service.errors import ArtifactError
from routing_service.routers.transformers.bert import BertRouter, Figures, reader_of
from routing_service.routers.transformers.bert_forward import LABELS, Classifier, Precision
from routing_service.routers.transformers.model_files import KEY, pack_transformer, quiet
from routing_service.settings import Settings
from training.data.comparisons import ROLES, Comparisons
from training.data.labels import DataError
from training.fit.calibration import calibrated, hold_out
from training.fit.training_loop import History, Rows, Schedule, seeded, train
from training.progress import Progress, silent

Vector = npt.NDArray[np.float64]

SMALL = 512  # hidden size up to which an encoder takes the larger learning rate
LEARNING_RATES = {"small": 1e-4, "large": 1e-5}
FORWARD_TOKENS = {"cpu": 2048, "cuda": 16_384}
LEAST_HELD_OUT = 20  # prompts, to stop early by
MAX_RATIO = 4.0  # bounds the weights of labels: none counts for more than this, or less than its inverse

__all__ = ["BertOptions", "fit"]


@dataclass(frozen=True, slots=True)
class BertOptions:
    """`encoder`: `minilm`, a path or a hub name (`FacebookAI/xlm-roberta-base`), whose weights are safetensors.

    `learning_rate` 0 means: 1e-4 for encoders of at most 512 hidden units such as MiniLM, else 1e-5. `forward_tokens`,
    which bounds the memory (8,192 of them take 7 GB with MiniLM), 0 means: 2,048 on a CPU, 16,384 on CUDA.
    `precision` is that of scoring: auto is int8 on a CPU and bfloat16 on CUDA. `compile`: through torch.compile, on
    CUDA alone.
    """

    encoder: str = "minilm"
    max_tokens: int = 512
    learning_rate: float = 0.0
    epochs: float = 4.0
    max_steps: int = 2000
    minibatch: int = 16
    forward_tokens: int = 0
    weight_decay: float = 0.01
    warm_up: float = 0.1
    evaluations: int = 10
    patience: int = 3
    held_out_share: float = 0.15  # of the prompts: to stop early by, and to calibrate on
    balance: bool = True
    precision: str = "auto"
    compile: bool = True

    def __post_init__(self) -> None:
        if not 8 <= self.max_tokens <= 32_768:
            raise DataError("max_tokens must be 8 to 32,768")
        if not 0 <= self.held_out_share <= 0.5:
            raise DataError("held_out_share must be 0 to 0.5")
        if self.precision not in get_args(Precision):
            raise DataError(f"precision must be one of {', '.join(get_args(Precision))}")
        if self.learning_rate < 0:
            raise DataError("learning_rate must be 0 or more")
        self.schedule(SMALL, "cpu")

    def schedule(self, hidden: int, device_type: str) -> Schedule:
        """For an encoder of that hidden size on that kind of device."""
        return Schedule(
            self.learning_rate or LEARNING_RATES["small" if hidden <= SMALL else "large"],
            epochs=self.epochs,
            max_steps=self.max_steps,
            minibatch=self.minibatch,
            forward_tokens=self.forward_tokens or FORWARD_TOKENS[device_type],
            weight_decay=self.weight_decay,
            warm_up=self.warm_up,
            evaluations=self.evaluations,
            patience=self.patience,
        )


def fit(
    comparisons: Comparisons, *, seed: int, options: BertOptions, settings: Settings, progress: Progress = silent
) -> BertRouter:
    """Fit a router on the comparisons of the pair, the seed's share of prompts held out.

    ConfigurationError where the encoder cannot be loaded. With fewer than 20 prompts held out it is fitted on all,
    without early stopping or calibration. One-sided data give a router that says so.
    """
    data = Comparisons.from_labels(comparisons.labels(), comparisons.pair or ROLES)
    held, kept = hold_out(data, options.held_out_share, seed)
    if len(held.prompts) < LEAST_HELD_OUT or not len(kept):
        held, kept = data.take([]), data
    where = device.choose(settings.routing.device)
    with seeded(seed):  # draws the head
        model, tokenizer = _load(options.encoder)
    # As the router reads: what is fitted on is what will be scored.
    reader, nothing = reader_of(tokenizer.backend_tokenizer, model.config.to_dict(), options.max_tokens)
    fitted, measured = (_Examples.of(part, reader, nothing, where) for part in (kept, held))
    weights = label_weights(fitted) if options.balance else np.ones(LABELS)
    fitted.label_weights = measured.label_weights = torch.tensor(weights, dtype=torch.float32, device=where)
    history = train(
        model,
        fitted,
        measured,
        options.schedule(int(getattr(model.config, "hidden_size", SMALL)), where.type),
        seed=seed,
        device=where,
        compiled=options.compile and where.type == "cuda",
        progress=progress,
        title="fitting bert",
    )
    router = _router(model, tokenizer, weights, options, settings)
    _describe(router, data, held, history, seed, options)
    return router


def soft_labels(gain: npt.NDArray[np.float64]) -> Vector:
    """Gains in [-1, 1] as distributions over strong wins, tie, weak wins, shape (n, 3)."""
    return np.stack([np.maximum(gain, 0), 1 - np.abs(gain), np.maximum(-gain, 0)], axis=1)


def label_weights(examples: _Examples) -> Vector:
    """The inverse of each label's frequency, relative to three equal ones, within bounds; shape (3,)."""
    mass = examples.weights @ examples.targets.double().cpu().numpy()
    weights: Vector = np.clip(mass.sum() / LABELS / np.maximum(mass, 1e-9), 1 / MAX_RATIO, MAX_RATIO)
    return weights


@dataclass
class _Examples:
    """Prompts with the distribution of their labels."""

    ids: list[Ids]
    lengths: npt.NDArray[np.int64]
    weights: Vector  # what a prompt counts for: the sum over its labels, with a mean of 1
    targets: torch.Tensor  # (prompts, 3)
    where: torch.device
    label_weights: torch.Tensor

    @classmethod
    def of(cls, data: Comparisons, reader: Reader, nothing: Ids, where: torch.device) -> _Examples:
        prompts, weights, targets = _merged(data)
        ids = [one if len(one) else nothing for one in reader.read(prompts)[0]]
        lengths = np.array([len(one) for one in ids], np.int64)
        on_device = torch.tensor(targets, dtype=torch.float32, device=where)
        return cls(ids, lengths, weights, on_device, where, torch.ones(LABELS, device=where))

    def losses(self, model: Any, rows: Rows) -> torch.Tensor:
        """Cross-entropy against the soft labels, each label by its weight."""
        ids = torch.zeros((len(rows), int(self.lengths[rows].max())), dtype=torch.long)
        for place, row in enumerate(rows.tolist()):
            ids[place, : self.lengths[row]] = torch.from_numpy(self.ids[row])
        mask = torch.arange(ids.shape[1])[None] < torch.from_numpy(self.lengths[rows])[:, None]
        logits = model(input_ids=ids.to(self.where), attention_mask=mask.long().to(self.where)).logits
        targets = self.targets[torch.from_numpy(rows).to(self.where)] * self.label_weights
        losses: torch.Tensor = -(targets * logits.float().log_softmax(-1)).sum(-1)
        return losses


def _merged(data: Comparisons) -> tuple[list[str], Vector, Vector]:
    """Prompts, each once; the weight of each, with a mean of 1; the mean distribution of its labels."""
    if not len(data):
        return [], np.empty(0), np.empty((0, LABELS))
    gain = 2 * data.of_pair()[1] - 1
    weights = np.bincount(data.prompt, data.weight)
    targets = np.zeros((len(data.prompts), LABELS))
    np.add.at(targets, data.prompt, soft_labels(gain) * data.weight[:, None])
    return data.prompts, weights / weights.mean(), targets / weights[:, None]


def _load(encoder: str) -> tuple[Any, Any]:
    """The encoder with a new head of three labels, and its tokenizer."""
    directory = find_model(encoder).directory
    try:
        with quiet():
            model = AutoModelForSequenceClassification.from_pretrained(
                directory, num_labels=LABELS, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
            )
            tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
            if len(tokenizer) > model.get_input_embeddings().num_embeddings:  # a token the encoder never had
                model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    except Exception as error:  # transformers raises whatever it meets
        raise DataError(f"the encoder {encoder} cannot be fine-tuned: {type(error).__name__}: {error}"[:500]) from error
    return model, tokenizer


def _router(model: Any, tokenizer: Any, weights: Vector, options: BertOptions, settings: Settings) -> BertRouter:
    tensors, part = pack_transformer(model.cpu(), tokenizer)
    offsets = tuple(-math.log(weight) for weight in weights.tolist())
    precision: Literal["auto", "float", "int8"] = options.precision  # type: ignore[assignment]
    figures = Figures(options.max_tokens, "ties_as_half", offsets, precision)
    classifier = Classifier(part[KEY]["config"], tensors, lambda: model)
    try:
        return BertRouter(classifier, figures, settings=settings)
    except ArtifactError as error:
        raise DataError(f"the encoder {options.encoder} cannot be used: {error}") from error


def _describe(
    router: BertRouter, data: Comparisons, held: Comparisons, history: History, seed: int, options: BertOptions
) -> None:
    """Calibrate the router on the held-out prompts, and write down how it was fitted."""
    measured: dict[str, Any] = {"applied": False, "held_out": 0}
    if len(held):
        labels = held.labels()
        rates = router.raw_win_rates(labels.prompts, [ROLES])[:, 0]
        router.calibration, measured = calibrated(rates, (1 + labels.gain) / 2, labels.weight, seed=seed)
    counts = dict(Counter(data.source))
    router.metadata = {
        "seed": seed,
        "options": asdict(options),
        "data": {"fingerprint": data.fingerprint(), "rows": len(data), "sources": counts},
        "pair": dict(zip(ROLES, data.pair or ROLES, strict=True)),
        "metrics": {"calibration": measured, "fit": history.as_dict()},
    }
