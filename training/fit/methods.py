"""The methods that can be fitted, by name. A new one is a module with `fit` and its options, and a line here."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from routing_service.routers.base import Router
from routing_service.routers.registry import canonical
from routing_service.settings import Settings
from training.data.comparisons import Comparisons
from training.progress import Progress

# method -> module:options; the module's `fit` is a Fit
METHODS = {
    "bert": "training.fit.bert:BertOptions",
    "causal_llm": "training.fit.causal_llm:CausalLLMOptions",
    "ensemble": "training.fit.ensemble:EnsembleOptions",
    "gain": "training.fit.gain:GainOptions",
    "matrix_factorization": "training.fit.matrix_factorization:MatrixFactorizationOptions",
    "similarity_weighted": "training.fit.similarity_weighted:SimilarityWeightedOptions",
}


class Fit(Protocol):
    def __call__(
        self, comparisons: Comparisons, *, seed: int, options: Any, settings: Settings, progress: Progress
    ) -> Router:
        """Fit a router; same comparisons, seed and options, same router. DataError where the data will not do.

        `metadata` of the router holds seed, options, data (fingerprint, rows, sources) and metrics (calibration).
        """


@dataclass(frozen=True, slots=True)
class Method:
    """`any_pair`: its routers know every pair of the data's models, so that none need be named (`ANY_PAIR = True` in
    its module). Other methods are fitted on `Comparisons.labels`.
    """

    name: str
    options: type[Any]
    fit: Fit
    any_pair: bool = False


def method(name: str) -> Method:
    """The method of that name or alias, its module imported. KeyError for a name that is none."""
    name = canonical(name)
    module_name, _, options = METHODS[name].partition(":")
    module = import_module(module_name)
    return Method(name, getattr(module, options), module.fit, getattr(module, "ANY_PAIR", False))
