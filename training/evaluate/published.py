"""Figures of the paper (RouteLLM, arXiv 2406.18665) to print beside ours: gpt-4-1106-preview and Mixtral-8x7B.

APGR and CPT are those of its tables 1 to 3, for routers that were fitted on Chatbot Arena alone or with more data.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

ARENA, JUDGE, GOLDEN = "Arena", "Arena + judge", "Arena + golden labels"
METHODS = ("random", "similarity_weighted", "matrix_factorization", "bert", "causal_llm")


@dataclass(frozen=True, slots=True)
class Published:
    """A row of the paper's tables. CPT as a share of strong calls, None where it has none of that row."""

    method: str
    data: str
    apgr: float
    cpt_50: float | None = None
    cpt_80: float | None = None


# set -> data -> APGR by METHODS; with the second data CPT(50%) and CPT(80%), too
_APGR = {
    "mt-bench": {ARENA: (0.500, 0.610, 0.580, 0.391, 0.537), JUDGE: (0.500, 0.759, 0.802, 0.751, 0.679)},
    "mmlu": {ARENA: (0.500, 0.473, 0.524, 0.502, 0.499), GOLDEN: (0.500, 0.603, 0.597, 0.572, 0.600)},
    "gsm8k": {ARENA: (0.497, 0.475, 0.475, 0.438, 0.461), JUDGE: (0.497, 0.568, 0.565, 0.531, 0.622)},
}
_CPT = {
    "mt-bench": ((0.490, 0.781), (0.232, 0.360), (0.134, 0.313), (0.196, 0.340), (0.315, 0.488)),
    "mmlu": ((0.501, 0.799), (0.354, 0.716), (0.354, 0.714), (0.413, 0.722), (0.355, 0.703)),
    "gsm8k": ((0.500, 0.801), (0.412, 0.722), (0.388, 0.726), (0.448, 0.791), (0.336, 0.633)),
}
COST_RATIOS = {"mt-bench": (3.66, 2.49), "mmlu": (1.41, 1.14), "gsm8k": (1.49, 1.27)}  # table 6: the best router's
# table 7: method -> requests/s, dollars a million requests
OVERHEAD = {
    "similarity_weighted": (2.9, 37.46),
    "matrix_factorization": (155.16, 1.42),
    "bert": (69.62, 3.19),
    "causal_llm": (42.6, 5.23),
}
# table 4: set -> similarity to the training data, with Arena alone and with more
SIMILARITY = {"mt-bench": (0.6078, 0.6525), "mmlu": (0.4823, 0.5678), "gsm8k": (0.4926, 0.5335)}


def published(name: str) -> list[Published]:
    """The paper's rows on the set of that name, better data last; none for a set that it does not have."""
    rows = []
    for number, (data, values) in enumerate(_APGR.get(name, {}).items()):
        cpts = _CPT[name] if number else [(None, None)] * len(METHODS)
        for method, apgr, both in zip(METHODS, values, cpts, strict=True):
            if number or method != "random":
                rows.append(Published(method, data, apgr, *both))
    return rows


def rows_of(name: str) -> list[dict[str, Any]]:
    """`published` as JSON."""
    return [asdict(row) for row in published(name)]
