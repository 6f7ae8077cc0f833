"""The forward pass of a sequence classifier: torch in float32 (bfloat16 on CUDA), or 8-bit integers on a CPU.

In integers the encoder is the graph of `embedding.int8`, in which a prompt's logits do not depend on those beside
it, and the head, which is small, stays in float32. torch is not needed for it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from routing_service import device
from routing_service.embedding.local import Forward
from routing_service.errors import ArtifactError
from routing_service.settings import Settings

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Precision = Literal["auto", "float", "int8"]

WEIGHTS = "weights/"
CPU_TOKENS = 256  # of a minibatch: what a processor's caches hold; with four times as many floats take a third longer
CUDA_TOKENS = 65_536
LABELS = 3  # strong wins, tie, weak wins: RouteLLM's order

__all__ = ["LABELS", "WEIGHTS", "Classifier", "Precision", "load_forward", "max_positions"]


@dataclass(frozen=True, slots=True)
class Classifier:
    """A model by its parts: `tensors` holds `weights/NAME`; `model` gives it to torch, in float32, on the CPU."""

    config: dict[str, Any]
    tensors: Mapping[str, Any]
    model: Callable[[], Any]

    def weights(self, name: str) -> Floats:
        """A weight by its name. KeyError if it lacks, ArtifactError if it is not finite."""
        array: Floats = np.asarray(self.tensors[WEIGHTS + name]).astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            raise ArtifactError(f"the classifier's weight {name!r} holds values that are not finite")
        return array


def max_positions(config: Mapping[str, Any]) -> int | None:
    """The tokens that a model can read, its own special ones included; None where its configuration does not say."""
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int):
        return None
    if config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        return positions - int(config.get("pad_token_id") or 0) - 1  # they count positions from behind padding
    return positions


def load_forward(classifier: Classifier, precision: Precision, settings: Settings) -> Forward:
    """Ids and mask, both (prompts, tokens), to logits, (prompts, labels). ArtifactError where the parts do not fit."""
    if not _in_integers(classifier, precision, settings):
        return _in_floats(classifier, settings)
    try:
        return _int8(classifier)
    except KeyError as error:
        raise ArtifactError(f"the classifier lacks the weight {error}") from None
    except ArtifactError:
        raise
    except Exception as error:  # numpy and ONNX Runtime each have their own for shapes that do not fit
        raise ArtifactError(f"the classifier's weights do not fit its configuration: {str(error)[:200]}") from error


def _in_integers(classifier: Classifier, precision: Precision, settings: Settings) -> bool:
    if precision == "float" or (precision == "auto" and device.is_cuda(settings.routing.device)):
        return False
    installed = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
    if installed:
        from routing_service.embedding.int8 import supported

        if supported(classifier.config):
            return True
    if precision == "int8":
        kind = str(classifier.config.get("model_type"))[:80]
        raise ArtifactError(
            f"int8 needs onnx, onnxruntime and a model like BERT, RoBERTa or XLM-RoBERTa, not {kind!r}: "
            "pip install 'routebatch[models]', or fit with precision=float"
        )
    return False


def _int8(classifier: Classifier) -> Forward:
    from routing_service.embedding.int8 import forward_of

    bert = classifier.config["model_type"] == "bert"
    prefix = "bert." if bert else "roberta."
    names = ("bert.pooler.dense", "classifier") if bert else ("classifier.dense", "classifier.out_proj")
    (inner, shift), (outer, last) = (
        (classifier.weights(f"{name}.weight").T, classifier.weights(f"{name}.bias")) for name in names
    )
    encoder = forward_of(lambda name: classifier.weights(prefix + name), classifier.config, "cls", CPU_TOKENS)
    np.zeros((1, len(inner)), np.float32) @ inner @ outer + last  # shapes that do not fit show here

    def run(ids: Ids, mask: Ids) -> Floats:
        logits: Floats = np.tanh(encoder.run(ids, mask) @ inner + shift) @ outer + last
        return logits

    return Forward(run, encoder.threads, encoder.tokens)


def _in_floats(classifier: Classifier, settings: Settings) -> Forward:
    import torch

    from routing_service.embedding.torch_forward import halving

    target = device.choose(settings.routing.device)
    cuda = target.type == "cuda"
    model = classifier.model().float().eval().to(target)

    def whole(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), torch.autocast(target.type, torch.bfloat16, enabled=cuda):
            logits: torch.Tensor = model(input_ids=ids, attention_mask=mask).logits
        return logits

    def run(ids: Ids, mask: Ids) -> Floats:
        halves = halving(whole, torch.from_numpy(ids).to(target), torch.from_numpy(mask).to(target))
        logits: Floats = halves.float().cpu().numpy()
        return logits

    return Forward(run, 1, CUDA_TOKENS if cuda else CPU_TOKENS)
