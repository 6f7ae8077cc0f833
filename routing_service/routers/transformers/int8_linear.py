"""Linear layers in 8-bit integers for a CPU of the x86 kind: a third of the time of float32, a little off.

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
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

ACTIVATION, WEIGHT = 127, 63  # largest integers; activations are stored from 0, around 128
SMALLEST = 1e-12
LEAST_CHANNEL = 1e-5
LEAST_PEAK = 0.1  # of the mean: a channel that one text leaves silent may speak in another
OPENING = 4  # tokens of a text whose activations are like no others'

__all__ = ["Inputs", "observed", "quantized", "supported"]


@dataclass(slots=True)
class Inputs:
    """What linear layers read: names of those that read the same, and its largest activation by channel."""

    layers: list[str]
    peaks: Tensor


def supported() -> bool:
    """Whether this torch and processor have the kernel."""
    return torch.backends.quantized.engine in ("x86", "fbgemm")


@contextmanager
def observed(model: nn.Module) -> Iterator[list[Inputs]]:
    """Notes what the model's linear layers read, while it reads one text inside."""
    observations: list[Inputs] = []
    seen: dict[int, tuple[Tensor, Inputs]] = {}  # holds the tensors, so that no two of them have one id

    def note(name: str, values: Tensor) -> None:
        if id(values) not in seen:
            flat = values.reshape(-1, values.shape[-1])
            seen[id(values)] = (values, Inputs([], flat[min(OPENING, len(flat) - 1) :].abs().amax(0)))
            observations.append(seen[id(values)][1])
        seen[id(values)][1].layers.append(name)

    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs[0]))
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    try:
        yield observations
    finally:
        seen.clear()
        for hook in hooks:
            hook.remove()


def quantized(model: nn.Module, inputs: list[Inputs]) -> nn.Module:
    """A copy of the model whose observed linear layers are in integers; it shares all other weights.

    Layers that read the same are one product of matrices.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    copied = copy.deepcopy(model, shared)
    for group in inputs:
        layers = [cast(nn.Linear, model.get_submodule(name)) for name in group.layers]
        joint = _Joint(layers, group.peaks)
        start = 0
        for name, layer in zip(group.layers, layers, strict=True):
            parent, _, own = name.rpartition(".")
            setattr(copied.get_submodule(parent), own, _Part(joint, start, start + layer.out_features))
            start += layer.out_features
    return copied


class _Joint:
    """The weights of layers that read the same, quantised."""

    def __init__(self, layers: list[nn.Linear], peaks: Tensor) -> None:
        weight = torch.cat([layer.weight.detach().float() for layer in layers])
        biases = [torch.zeros(len(layer.weight)) if layer.bias is None else layer.bias.detach() for layer in layers]
        self._bias = None if all(layer.bias is None for layer in layers) else torch.cat(biases).float()
        peaks = peaks.clamp_min(float(peaks.mean()) * LEAST_PEAK + LEAST_CHANNEL)
        even = (peaks / weight.abs().amax(0).clamp_min(LEAST_CHANNEL)).sqrt()
        self._divide = 1 / even
        weight *= even
        scale = (weight.abs().amax(1) / WEIGHT).clamp_min(SMALLEST).double()
        centre = torch.zeros_like(scale, dtype=torch.long)  # of another type they would mean something else
        with warnings.catch_warnings():  # torch is to part with these functions; its version is pinned
            warnings.simplefilter("ignore", UserWarning)
            integers = torch.quantize_per_channel(weight, scale, centre, 0, torch.qint8)
            self._packed = torch.ops.quantized.linear_prepack(integers, None)
        self._size = len(weight)
        self._last: tuple[Tensor, Tensor] | None = None

    def part(self, values: Tensor, start: int, stop: int) -> Tensor:
        """The outputs from `start` to `stop`. What the first layer computes is kept until the last has its part."""
        last = self._last
        if last is None or last[0] is not values:
            last = (values, self._product(values))
        self._last = None if stop == self._size else last
        return last[1][..., start:stop]

    def _product(self, values: Tensor) -> Tensor:
        flat = values.reshape(-1, values.shape[-1]) * self._divide
        scale = flat.abs().amax(1, keepdim=True).clamp_min_(SMALLEST)
        product: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            flat.div_(scale), 1 / ACTIVATION, ACTIVATION + 1, self._packed
        )
        product = product.mul_(scale)
        if self._bias is not None:
            product += self._bias
        return product.reshape(*values.shape[:-1], -1)


class _Part(nn.Module):
    """In the place of a linear layer; takes and gives float32, shape (..., features)."""

    def __init__(self, joint: _Joint, start: int, stop: int) -> None:
        super().__init__()
        self._joint, self._start, self._stop = joint, start, stop

    def forward(self, values: Tensor) -> Tensor:
        return self._joint.part(values, self._start, self._stop)
