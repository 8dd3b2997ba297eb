"""Smooth activations: each piecewise linear one is replaced, however a network calls it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from classifiers.activations import smoothed


def as_statement(x) -> None:
    x.relu_()


class Called(nn.Module):
    """An activation called within a network, on a copy of its input."""

    def __init__(self, activation) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x):
        x = x.clone()
        output = self.activation(x)
        return x if output is None else output


ACTIVATIONS = {
    "module": nn.ReLU(), "in place": nn.ReLU(inplace=True), "function": F.relu, "positional": lambda x: F.relu(x, True),
    "keyword": lambda x: F.relu(input=x), "method": lambda x: x.relu(), "statement": as_statement,
    "relu6": nn.ReLU6(), "relu6 in place": nn.ReLU6(inplace=True), "relu6 function": F.relu6,
    "hardtanh": nn.Hardtanh(-2, 2), "hardswish": nn.Hardswish(), "hardsigmoid": nn.Hardsigmoid(),
}  # fmt: skip


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_every_relu_is_smoothed_however_it_is_called(kind):
    """The slope of a kink jumps by a sixth or more; Softplus(3), 0.23 away at most, has no slope of more than 3 / 4."""
    x = torch.linspace(-8, 8, 8001, dtype=torch.float64, requires_grad=True)
    network = Called(ACTIVATIONS[kind])
    exact, smooth = network(x), smoothed(network)(x)
    jumps = [float(torch.autograd.grad(y.sum(), x)[0].diff().abs().max()) for y in (exact, smooth)]
    assert jumps[0] > 0.15
    assert jumps[1] < 0.002
    assert 0.01 < float((exact - smooth).detach().abs().max()) < 0.232
    assert torch.equal(network(x), exact)  # the network itself is kept


def test_a_smoothed_relu_is_softplus_and_other_operations_are_kept():
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 2)), torch.randn(3, 4)
    by_hand = network[2](F.softplus(network[0](x), 3.0))
    assert torch.equal(smoothed(network)(x), by_hand)
