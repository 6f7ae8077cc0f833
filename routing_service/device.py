"""Where tensors are computed: CUDA where it is there, else the CPU, unless the configuration says which.

torch is imported when a device is asked for, never at import: a worker's child asks after the fork. Where the machine
has no CUDA driver, torch need not be imported to know that there is no CUDA.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Literal

from routing_service.errors import ConfigurationError

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda"]
DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"

__all__ = ["Device", "choose", "compute_dtype", "describe", "is_cuda", "threads"]


def is_cuda(device: Device) -> bool:
    """Whether tensors are computed on CUDA. ConfigurationError where CUDA is demanded and not there."""
    there = device != "cpu" and _driver() and _torch_finds_cuda()
    if device == "cuda" and not there:
        raise ConfigurationError("routing.device is cuda, and torch finds no CUDA device here; auto takes the CPU")
    return there


def choose(device: Device) -> torch.device:
    """ConfigurationError where CUDA is demanded and not there."""
    cuda = is_cuda(device)
    import torch

    return torch.device("cuda" if cuda else "cpu")


def compute_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on CUDA, float32 on a CPU (whose bfloat16 is slower)."""
    import torch

    return torch.bfloat16 if device.type == "cuda" else torch.float32


def threads() -> int:
    """Processors for this process: OMP_NUM_THREADS, as torch reads it and workers set it, else all it may use."""
    said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if said.isdecimal() and int(said):
        return int(said)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe(device: Device) -> str:
    """In words for people: the device, its type of numbers, its size. Without CUDA torch is not imported."""
    if not is_cuda(device):
        return f"cpu, {threads()} threads, float32"
    import torch

    properties = torch.cuda.get_device_properties(0)
    return f"cuda, {properties.name}, {properties.total_memory / 2**30:.0f} GiB, bfloat16"


def _driver() -> bool:
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return False
    return True


def _torch_finds_cuda() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()
