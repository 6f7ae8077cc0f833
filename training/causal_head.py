"""The cheapest fit of a causal_llm router: its label rows alone, on hidden states that are computed once.

What the model makes of a prompt at the position of the verdict is read like an embedding: the rows and the bias of the
label tokens are a multinomial logistic regression on it, with a penalty on rows of standardised states. It is convex,
so that no learning rate or number of epochs has to be right, and costs one forward pass a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from routing_service.routers.transformers.causal_llm import CausalLLMRouter
from training.calibration import calibrated
from training.causal_examples import JudgedPrompts, Vector, balanced
from training.methods import Progress

CHUNK = 256  # prompts between two reports of progress
BIAS_PENALTY = 0.01  # keeps the bias of a label finite that never occurs
STEPS = 300
LEAST_SPREAD = 1e-6  # of a state that never varies

Held = npt.NDArray[np.bool_]

__all__ = ["fit_head"]


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
    found: list[Tensor] = []
    with progress("reading prompts", len(prompts)) as advance:
        for start in range(0, len(order), CHUNK):
            part = [prompts[number] for number in order[start : start + CHUNK]]
            found.append(router.states(part))
            advance(len(part))
    return torch.cat(found)[np.argsort(order)].double()


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
