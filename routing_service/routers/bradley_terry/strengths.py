"""The weighted Bradley-Terry problem, one or many at once: wins become a strength for every rival.

P(i beats j) = sigmoid(x_i - x_j), in log-odds; RouteLLM's coefficients are x / ln 10, its ratings 400 of those. A rival
is a model or a tier of models.

RouteLLM's design matrix makes of a comparison inside a tier one of the tier with a fixed reference, which wins where
the first model won. That is kept (without it win rates shift by up to .007): the reference is the last rival.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer]

TOLERANCE = 1e-6  # of a step, in log-odds; what is left after that step is its square
MAX_STEPS = 100  # regular problems take three to eight
DAMPING = 1e-9  # of the diagonal: only differences of strengths are determined

__all__ = ["cells", "is_regular", "solve", "steadied", "total_wins"]


def cells(first: Integers, second: Integers, rivals: int) -> tuple[Integers, Integers]:
    """Which cells of the wins (raveled, reference included) a comparison of two rivals adds to: the first's over the
    second, and the second's over the first."""
    winner = np.where(first == second, rivals, first)
    return winner * (rivals + 1) + second, second * (rivals + 1) + winner


def total_wins(first: Integers, second: Integers, outcome: Vector, weight: Vector, rivals: int) -> Vector:
    """How often each rival beat each, shape (rivals + 1, rivals + 1) with the reference last: `first` is preferred over
    `second` by `outcome` in [0, 1]. All twice, as RouteLLM counts a battle."""
    won, lost = cells(first, second, rivals)
    size = rivals + 1
    wins_of_pairs = np.zeros(size**2)
    np.add.at(wins_of_pairs, won, 2 * weight * outcome)
    np.add.at(wins_of_pairs, lost, 2 * weight * (1 - outcome))
    return wins_of_pairs.reshape(size, size)


def is_regular(wins: Vector) -> bool:
    """Whether all strengths are finite: every rival has beaten every other, if not itself then by way of others (Ford
    1957). A reference that was never met does not count."""
    met = wins[-1].any() or wins[:, -1].any()
    reach = (wins if met else wins[:-1, :-1]) > 0
    reach |= np.eye(len(reach), dtype=bool)
    for _ in range(len(reach).bit_length()):
        reach = (reach.astype(np.float32) @ reach.astype(np.float32)) > 0
    return bool(reach.all())


def steadied(wins: Vector, weight: float) -> Vector:
    """With a tie of that weight added between every rival and the reference, which makes any problem regular."""
    added = wins.copy()
    added[..., :-1, -1] += weight
    added[..., -1, :-1] += weight
    return added


def solve(wins: Vector, start: Vector | None = None) -> Vector:
    """The strengths of the greatest likelihood, shape (.., rivals), of wins (.., rivals + 1, rivals + 1), by Newton's
    method. The reference's is 0 where it was met.

    Steps are cut as generalised self-concordance (Bach 2010) asks, so that the
    likelihood never falls: whole below 1, else log(1 + s) / s of a step of size s. Irregular problems end after
    MAX_STEPS, far apart but finite.
    """
    size = wins.shape[-1]
    stacked = wins.reshape(-1, size, size)
    solutions = np.zeros((len(stacked), size))
    if start is not None:
        solutions[:, :-1] = start
    active = np.arange(len(solutions))
    for _ in range(MAX_STEPS):
        step = _newton_step(solutions[active], stacked[active])
        reach = np.ptp(step, axis=1)
        solutions[active] += np.where(reach > 1, np.log1p(reach) / np.maximum(reach, 1), 1)[:, None] * step
        active = active[reach > TOLERANCE]
        if not len(active):
            break
    strengths: Vector = (solutions - solutions[:, -1:])[:, :-1].reshape(*wins.shape[:-2], size - 1)
    return strengths


def _newton_step(x: Vector, wins: Vector) -> Vector:
    """Of shape (problems, T); x (problems, T), wins (problems, T, T)."""
    expected = 1 / (1 + np.exp(np.clip(x[:, None, :] - x[:, :, None], -700, 700)))
    met = wins + wins.transpose(0, 2, 1)
    gradient = (met * expected - wins).sum(axis=2)
    curve = met * expected * (1 - expected)
    number = np.arange(x.shape[1])
    hessian = -curve
    # The smallest positive number stands for a rival of whom these wins say nothing: it stays where it is.
    hessian[:, number, number] += curve.sum(axis=2) * (1 + DAMPING) + np.finfo(float).tiny
    step: Vector = -np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
    return step
