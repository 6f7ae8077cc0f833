"""Linear layers in 8-bit integers: near the float ones, row by row, whatever the other rows hold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from routing_service.routers.transformers.int8_linear import observed, quantized, supported


class Block(nn.Module):
    """Two layers that read the same, one that reads their sum, one that reads nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(32, 48), nn.Linear(32, 48, bias=False)
        self.out, self.unused = nn.Linear(48, 8), nn.Linear(3, 3)
        self.norm = nn.LayerNorm(32)

    def forward(self, values: Tensor) -> Tensor:
        normal = self.norm(values)
        found: Tensor = self.out(torch.relu(self.left(normal) + self.right(normal)))
        return found


def both(seed: int = 0) -> tuple[Block, nn.Module, Tensor]:
    """The block, its quantised copy, and rows with a few channels much larger than the rest."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        block, values, text = Block(), torch.randn(6, 5, 32), torch.randn(1, 30, 32)
    values[..., 3] *= 40
    text[..., 3] *= 40
    block.requires_grad_(False)
    with observed(block) as inputs:
        block(text)
    assert [group.layers for group in inputs] == [["left", "right"], ["out"]]
    return block, quantized(block, inputs), values


def test_this_machine_has_the_kernel() -> None:
    assert supported()


@pytest.mark.parametrize("seed", range(3))
def test_integers_are_near_the_floats(seed: int) -> None:
    block, integers, values = both(seed)
    exact, found = block(values), integers(values)
    assert found.shape == exact.shape
    assert (found - exact).norm() < 0.05 * exact.norm()
    assert not torch.equal(found, exact)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    _, integers, values = both()
    alone = torch.cat([integers(one[None]) for one in values])
    torch.testing.assert_close(integers(values), alone, atol=1e-5, rtol=1e-5)
    louder = values.clone()
    louder[1:] *= 1000
    torch.testing.assert_close(integers(louder)[0], alone[0], atol=1e-5, rtol=1e-5)


def test_nothing_of_a_pass_is_kept_and_the_model_stays_as_it_was() -> None:
    block, integers, values = both()
    before = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    first = integers(values)
    torch.testing.assert_close(integers(values), first, atol=0, rtol=0)
    assert integers.get_submodule("left")._joint._last is None  # type: ignore[union-attr]
    assert all(torch.equal(tensor, before[name]) for name, tensor in block.state_dict().items())
    assert isinstance(block.left, nn.Linear)
    assert integers.get_parameter("norm.weight") is block.norm.weight  # shared, not copied


def test_rows_of_zeros_give_the_bias() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3)).requires_grad_(False)
    with observed(model) as inputs:
        model(torch.ones(1, 4))
    zeros = quantized(model, inputs)(torch.zeros(2, 4))
    torch.testing.assert_close(zeros, model.get_parameter("0.bias").expand(2, 3))
