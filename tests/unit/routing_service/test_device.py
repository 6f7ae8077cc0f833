"""The device: CUDA where it is, else the CPU, and torch only where it must be asked."""

from __future__ import annotations

import sys

import pytest
import torch

from routing_service import device
from routing_service.errors import ConfigurationError


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "DRIVER", "no-such-driver.so")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose driver is there, and whose torch finds a device."""
    monkeypatch.setattr(device, "DRIVER", None)  # the process itself
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.usefixtures("no_cuda")
def test_without_a_driver_it_is_the_cpu_in_float32() -> None:
    assert device.choose("auto") == device.choose("cpu") == torch.device("cpu")
    assert device.compute_dtype(device.choose("auto")) == torch.float32
    assert device.describe("auto").startswith("cpu, ")


@pytest.mark.usefixtures("no_cuda")
def test_without_a_driver_torch_is_not_imported_to_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails
    assert not device.is_cuda("auto")
    assert "threads" in device.describe("auto")


@pytest.mark.usefixtures("cuda")
def test_with_cuda_it_is_cuda_in_bfloat16_unless_the_cpu_is_named() -> None:
    assert device.choose("auto") == device.choose("cuda") == torch.device("cuda")
    assert device.compute_dtype(device.choose("auto")) == torch.bfloat16
    assert device.choose("cpu") == torch.device("cpu")


@pytest.mark.usefixtures("no_cuda")
def test_cuda_that_is_demanded_and_not_there_is_an_error() -> None:
    for ask in (device.choose, device.is_cuda, device.describe):
        with pytest.raises(ConfigurationError, match=r"routing\.device"):
            ask("cuda")


@pytest.mark.parametrize(("said", "threads"), [("3", 3), ("4,2", 4), ("0", None), ("many", None), ("", None)])
def test_threads_are_those_that_openmp_was_told(
    monkeypatch: pytest.MonkeyPatch, said: str, threads: int | None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    actual = device.threads()
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert actual == (threads or device.threads())
    assert actual >= 1
