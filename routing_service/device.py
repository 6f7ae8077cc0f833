"""Where tensors are computed: CUDA where it is there, else the CPU, unless the configuration says which.

torch is imported when a device is asked for, never at import: a worker's child asks after the fork.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from routing_service.errors import ConfigurationError

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda"]

__all__ = ["Device", "choose", "compute_dtype", "describe"]


def choose(device: Device) -> torch.device:
    """ConfigurationError where CUDA is demanded and not there."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("routing.device is cuda, and torch finds no CUDA device here; auto takes the CPU")
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda")


def compute_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on CUDA, float32 on a CPU (whose bfloat16 is slower)."""
    import torch

    return torch.bfloat16 if device.type == "cuda" else torch.float32


def describe(device: Device) -> str:
    """In words for people: the device, its type of numbers, its size."""
    import torch

    chosen = choose(device)
    if chosen.type == "cpu":
        return f"cpu, {torch.get_num_threads()} threads, float32"
    properties = torch.cuda.get_device_properties(chosen)
    return f"cuda, {properties.name}, {properties.total_memory / 2**30:.0f} GiB, bfloat16"
