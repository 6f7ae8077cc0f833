"""Linear layers in 8-bit integers for a CPU of the x86 kind: a third of the time of float32.

A few channels of a language model's activations are many times larger than the rest. They are evened out first: what a
channel is divided by, its weights are multiplied with, by the root of what some text shows (SmoothQuant, arXiv
2211.10438). Then every row of activations has a scale of its own, so that no row's result depends on its neighbours in
the minibatch, and every output of the weights has one. Weights take 7 bits, activations 8: with 8 of both the sums of
processors without VNNI overflow, and scores would differ from machine to machine.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

ACTIVATION, WEIGHT = 127, 63  # largest integers; activations are stored from 0, around 128
SMALLEST = 1e-12
LEAST_CHANNEL = 1e-5
OPENING = 4  # tokens of a text whose activations are like no others'

__all__ = ["Int8Linear", "observed", "quantized", "supported"]

Peaks = dict[str, Tensor]  # of each linear layer's input, by channel


def supported() -> bool:
    """Whether this torch and processor have the kernel."""
    return torch.backends.quantized.engine in ("x86", "fbgemm")


@contextmanager
def observed(model: nn.Module) -> Iterator[Peaks]:
    """Notes the largest activation of every channel of every linear layer's input, while one text is read inside."""
    peaks: Peaks = {}

    def note(name: str, values: Tensor) -> None:
        flat = values.reshape(-1, values.shape[-1])
        peaks[name] = flat[min(OPENING, len(flat) - 1) :].abs().amax(0)

    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs[0]))
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    try:
        yield peaks
    finally:
        for hook in hooks:
            hook.remove()


def quantized(model: nn.Module, peaks: Peaks) -> nn.Module:
    """A copy of the model whose observed linear layers are in integers; it shares all other weights."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    found = copy.deepcopy(model, shared)
    for name, layer in list(found.named_modules()):
        if name in peaks and isinstance(layer, nn.Linear):
            parent, _, own = name.rpartition(".")
            setattr(found.get_submodule(parent), own, Int8Linear(layer, peaks[name]))
    return found


class Int8Linear(nn.Module):
    """A linear layer's weights, quantised; takes and gives float32, shape (..., features)."""

    def __init__(self, linear: nn.Linear, peaks: Tensor) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        even = (peaks.clamp_min(LEAST_CHANNEL) / weight.abs().amax(0).clamp_min(LEAST_CHANNEL)).sqrt()
        self._divide = 1 / even
        weight = weight * even
        scale = (weight.abs().amax(1) / WEIGHT).clamp_min(SMALLEST).double()
        centre = torch.zeros_like(scale, dtype=torch.long)  # of another type they would mean something else
        with warnings.catch_warnings():  # torch is to part with these functions; its version is pinned
            warnings.simplefilter("ignore", UserWarning)
            integers = torch.quantize_per_channel(weight, scale, centre, 0, torch.qint8)
            self._packed = torch.ops.quantized.linear_prepack(integers, None)
        self._bias = None if linear.bias is None else linear.bias.detach().float()

    def forward(self, values: Tensor) -> Tensor:
        flat = values.reshape(-1, values.shape[-1]) * self._divide
        scale = flat.abs().amax(1, keepdim=True).clamp_min_(SMALLEST)
        product: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            flat.div_(scale), 1 / ACTIVATION, ACTIVATION + 1, self._packed
        )
        product = product.mul_(scale)
        if self._bias is not None:
            product += self._bias
        return product.reshape(*values.shape[:-1], -1)
