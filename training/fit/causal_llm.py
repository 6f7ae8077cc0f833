"""Fitting the causal_llm router: a language model is fine-tuned to answer the instructions with the right label.

All weights are trained, as published, or LoRA's alone, which are merged into the model's before it is saved; the rows
of the label tokens always. They start as the rows of the letters or digits that the instructions name.

Or those rows are all that is fitted (`fit_head`): what a small model and a CPU can do. What the model makes of a prompt
at the position of the verdict is then read like an embedding: the rows and the bias of the label tokens are a
multinomial logistic regression on it, with a penalty on rows of standardised states. It is convex, so that no learning
rate or number of epochs has to be right, and costs one forward pass a prompt.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from routing_service import device
from routing_service.errors import ScoringError
from routing_service.routers.transformers.causal_llm import CausalLLMRouter, Judge, Precision
from routing_service.routers.transformers.causal_prompts import FORMS, PromptTokens, Question, ask
from routing_service.settings import Settings
from training.data.comparisons import ROLES, Comparisons
from training.data.labels import DataError, draw
from training.fit.calibration import HOLD_OUT_SEED, calibrated
from training.fit.causal_base import load_base, plain_tokens, taken_apart
from training.fit.causal_examples import BALANCES, JudgedExamples, JudgedPrompts, LabelModel, Vector, balanced, judged
from training.fit.training_loop import Schedule, seeded, train
from training.progress import Progress, silent

__all__ = ["fit_head"]

ADAPTERS = ("auto", "head", "lora", "full")
LEARNING_RATES = {"lora": 2e-4, "full": 1e-6}  # the published one is that of full fine-tuning of 8 billion weights
STORED = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class CausalLLMOptions:
    """`adapter` auto: head on a CPU, lora on CUDA. `learning_rate` 0: 2e-4 for LoRA, 1e-6 for full fine-tuning.
    `epochs` 0: the model as it is, calibrated. `head` has no rate, steps or minibatches, but a penalty.
    """

    base: str = "smollm2"  # a packaged model, a .gguf file, a directory, or a name on a hub
    form: str = "pairwise"  # pairwise: strong, tie, weak; scores: Anyscale's 1 to 5
    adapter: str = "auto"  # head (the label rows alone), lora or full
    head_penalty: float = 1.0
    rank: int = 16
    learning_rate: float = 0.0
    epochs: float = 3.0
    max_steps: int = 2000
    minibatch: int = 8
    balance: str = "weights"  # how the labels' imbalance is evened out: weights, downsample (as Anyscale does) or none
    forward_tokens: int = 2048  # of prompts that pass through the model at once: a minibatch may take several passes
    max_tokens: int = 2048  # of a row; longer prompts lose their middle
    weight_decay: float = 0.01
    evaluations: int = 5  # on the prompts held out, over the whole fit
    patience: int = 3
    validation_share: float = 0.2  # of the prompts: stops the fit early and calibrates; 0 for neither
    precision: Precision = (
        "float"  # of scoring: float32, on CUDA bfloat16; int8: on a CPU 8-bit integers, twice as fast
    )
    stored: str = "bfloat16"  # or float32: the weights in the artifact

    def __post_init__(self) -> None:
        choices: list[tuple[str, Collection[str]]] = [("form", FORMS), ("adapter", ADAPTERS), ("stored", STORED)]
        choices.append(("balance", BALANCES))
        for name, known in [*choices, ("precision", get_args(Precision))]:
            if getattr(self, name) not in known:
                raise DataError(f"{name} must be one of {', '.join(known)}")
        if not (1 <= self.rank <= 1024 and 32 <= self.max_tokens <= 131_072 and self.epochs >= 0):
            raise DataError("rank must be 1 to 1,024, max_tokens 32 to 131,072, epochs 0 or more")
        if not 1e-6 <= self.head_penalty <= 1e6:
            raise DataError("head_penalty must be 0.000001 to 1,000,000")
        if not 0 <= self.validation_share <= 0.5:
            raise DataError("validation_share must be 0 to 0.5")
        self.schedule()

    @property
    def on_ratings(self) -> bool:
        """Whether it is ratings of the weak model's answers that a router of these options is fitted on."""
        return self.form == "scores"

    def schedule(self) -> Schedule:
        """DataError for values that make no sense."""
        return Schedule(
            learning_rate=self.learning_rate or LEARNING_RATES["full" if self.adapter == "full" else "lora"],
            epochs=self.epochs or 1,
            max_steps=self.max_steps,
            minibatch=self.minibatch,
            forward_tokens=self.forward_tokens,
            weight_decay=self.weight_decay,
            evaluations=self.evaluations,
            patience=self.patience,
        )


def fit(
    comparisons: Comparisons,
    *,
    seed: int,
    options: CausalLLMOptions,
    settings: Settings,
    progress: Progress = silent,
) -> CausalLLMRouter:
    """Fine-tune on the comparisons of the pair, and calibrate on prompts held out. Same seed, same router.

    DataError for a model that cannot be loaded or asked, no comparison of the pair, no rating for the form `scores`.
    One-sided data give a router that says so.
    """
    form = FORMS[options.form]
    known = judged(comparisons, form)
    held = _held(known, options.validation_share, seed)
    where = device.choose(settings.routing.device)
    judge, question = _base(options)
    metadata: dict[str, Any] = {
        "seed": seed,
        "options": asdict(options),
        "data": {
            "fingerprint": comparisons.fingerprint(),
            "rows": len(known),
            "labels": known.counts(form.labels),
            "sources": dict(Counter(comparisons.labels().source)),
        },
    }
    adapter = options.adapter if options.adapter != "auto" else "lora" if where.type == "cuda" else "head"
    history: dict[str, Any] | None = None
    share = np.ones(len(form.labels))
    kept, unseen, weights = known.take(~held), known.take(held), share
    tokens = _tokens(judge, question)
    if options.epochs and adapter != "head":
        kept, weights, share = balanced(kept, form.wins, options.balance, seed)
        tuned = replace(options, adapter=adapter)
        judge, history = _tuned(judge, kept, unseen, tokens, weights, seed, tuned, where, progress)
    # What evening the labels out did to the logits is undone.
    judge = replace(judge, bias=judge.bias.cpu() - torch.from_numpy(np.log(share)))
    judge = judge.moved(where, STORED[options.stored])
    router = CausalLLMRouter(judge, question, precision=options.precision, metadata=metadata)
    if options.epochs and adapter == "head":
        how: dict[str, Any] = {"balance": options.balance, "penalty": options.head_penalty}
        metadata["metrics"] = fit_head(router, known, held, **how, seed=seed, progress=progress)
        return router
    with progress("calibrating", len(unseen)) as advance:
        rates = router.raw_win_rates(unseen.prompts, [ROLES])[:, 0] if len(unseen) else np.empty(0)
        advance(len(unseen))
    router.calibration, measured = calibrated(rates, unseen.outcome, unseen.weight, seed=seed)
    fitted_on = {"rows": len(kept), "labels": kept.counts(form.labels)}
    metadata["metrics"] = {"fit": history, "fitted_on": fitted_on, "label_weights": weights.tolist()}
    metadata["metrics"]["calibration"] = measured
    return router


def _held(known: JudgedPrompts, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which are held out, by prompt; none where nothing else would be left to fit on."""
    held = np.array([draw(prompt, seed + HOLD_OUT_SEED) < share * 2**64 for prompt in known.prompts], dtype=bool)
    if held.all():
        held[:] = False
    return held


def _base(options: CausalLLMOptions) -> tuple[Judge, Question]:
    form = FORMS[options.form]
    model, tokenizer = load_base(options.base)
    judge = taken_apart(model, tokenizer, plain_tokens(tokenizer, form.plain))
    positions = getattr(judge.body.config.get_text_config(), "max_position_embeddings", None) or options.max_tokens
    return judge, ask(form, tokenizer, min(options.max_tokens, positions))


def _tokens(judge: Judge, question: Question) -> PromptTokens:
    try:
        return PromptTokens(judge.tokenizer, question)
    except ScoringError as error:
        raise DataError(f"the model {judge.body.config.model_type} cannot be asked: {error}") from None


def _tuned(
    judge: Judge,
    kept: JudgedPrompts,
    held: JudgedPrompts,
    tokens: PromptTokens,
    weights: Vector,
    seed: int,
    options: CausalLLMOptions,
    where: torch.device,
    progress: Progress,
) -> tuple[Judge, dict[str, Any]]:
    """The fine-tuned model, LoRA merged, and how it went."""
    body = judge.body
    if options.adapter == "lora":
        config = LoraConfig(r=options.rank, lora_alpha=2 * options.rank, target_modules="all-linear")
        with seeded(seed), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that is to go
            body = get_peft_model(body, config)
    model = LabelModel(body, judge, tokens.prefix)
    fitted, unseen = (JudgedExamples(part, tokens, weights) for part in (kept, held))
    title = f"fitting {CausalLLMRouter.name}"
    history = train(model, fitted, unseen, options.schedule(), seed=seed, device=where, progress=progress, title=title)
    if options.adapter == "lora":
        body = body.merge_and_unload()
    return replace(judge, body=body.eval().requires_grad_(False), labels=model.labels.detach()), history.as_dict()


CHUNK = 256  # prompts between two reports of progress
BIAS_PENALTY = 0.01  # keeps the bias of a label finite that never occurs
STEPS = 300
LEAST_SPREAD = 1e-6  # of a state that never varies

Held = npt.NDArray[np.bool_]


def fit_head(
    router: CausalLLMRouter,
    known: JudgedPrompts,
    held: Held,
    *,
    balance: str,
    penalty: float,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Give the router its label rows, fitted on all prompts, and the calibration of a fit without those that are
    `held`, shape (n,). Returns what was measured, as JSON.
    """
    prompts = list(dict.fromkeys(known.prompts))
    states = _states(router, prompts, progress)
    place = {prompt: number for number, prompt in enumerate(prompts)}
    wins = router.question.wins

    def head(part: JudgedPrompts) -> tuple[Tensor, Tensor, dict[str, Any]]:
        kept, weights, share = balanced(part, wins, balance, seed)
        rows = [place[prompt] for prompt in kept.prompts]
        labels, bias = regression(states[rows], kept.target * weights, kept.weight / kept.weight.mean(), penalty)
        counts = {"rows": len(kept), "labels": kept.counts(router.question.labels)}
        measured = {"fitted_on": counts, "label_weights": weights.tolist()}
        return labels, bias - torch.from_numpy(np.log(share)).float(), measured

    rates = np.empty(0)
    unseen = known.take(held)
    if len(unseen):
        labels, bias, _ = head(known.take(~held))
        rows = [place[prompt] for prompt in unseen.prompts]
        rates = (states[rows] @ labels.double().T + bias.double()).softmax(-1).numpy() @ np.array(wins)
    labels, bias, measured = head(known)
    router.judge = replace(router.judge, labels=labels, bias=bias)
    router.calibration, calibration = calibrated(rates, unseen.outcome, unseen.weight, seed=seed)
    return {"fit": None, **measured, "calibration": calibration}


def _states(router: CausalLLMRouter, prompts: Sequence[str], progress: Progress) -> Tensor:
    """The hidden states at the verdict, shape (prompts, hidden), in float64."""
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))  # like lengths pass together
    states: list[Tensor] = []
    with progress("reading prompts", len(prompts)) as advance:
        for start in range(0, len(order), CHUNK):
            part = [prompts[number] for number in order[start : start + CHUNK]]
            states.append(router.states(part))
            advance(len(part))
    return torch.cat(states)[np.argsort(order)].double()


def regression(states: Tensor, target: Vector, weight: Vector, penalty: float) -> tuple[Tensor, Tensor]:
    """Rows and bias, shapes (labels, hidden) and (labels,), that minimise the cross-entropy to the targets (whose rows
    count for what they sum to) and the penalty. Double precision throughout; no chance is involved.
    """
    mean, spread = states.mean(0), states.std(0, correction=0).clamp_min(LEAST_SPREAD)
    scale = spread * states.shape[1] ** 0.5
    inputs, wanted = (states - mean) / scale, torch.from_numpy(target * weight[:, None])
    rows = torch.zeros((target.shape[1], states.shape[1]), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(target.shape[1], dtype=torch.float64, requires_grad=True)
    search: Any = torch.optim.LBFGS([rows, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        of_labels = -(wanted * (inputs @ rows.T + bias).log_softmax(-1)).sum()
        total: Tensor = of_labels + penalty / 2 * rows.square().sum() + BIAS_PENALTY / 2 * bias.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    search.step(loss)
    with torch.no_grad():
        labels = rows / scale
        return labels.float(), (bias - labels @ mean).float()
