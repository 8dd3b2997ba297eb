"""Compiled networks: what a call costs, and what happens where compiling fails."""

import logging
from collections import Counter

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch._subclasses import FakeTensorMode

from guided_diffusion.compilation import CallCost, call_cost, compile_or_warn, preparation, repays
from guided_diffusion.models.precision import EvaluatedNetwork


def test_a_call_costs_two_operations_for_each_multiplication_and_addition():
    linear, x = nn.Linear(3, 5, bias=False), torch.randn(2, 3)
    cost = call_cost(lambda: linear(x).relu())
    assert cost.flops == 2 * 2 * 3 * 5
    assert cost.kernels == 2  # the transposed weight is a view


def test_the_backward_pass_costs_too():
    conv, x = nn.Conv2d(1, 1, 3), torch.randn(1, 1, 4, 4)
    forward = call_cost(lambda: conv(x)).flops
    assert call_cost(lambda: conv(x).sum().backward()).flops == 2 * forward  # x needs no gradient, the weight does


@pytest.mark.parametrize("is_enabled", [True, False])
def test_the_cost_is_counted_in_the_callers_gradient_mode(is_enabled):
    modes: list[bool] = []
    with torch.set_grad_enabled(is_enabled):
        call_cost(lambda: modes.append(torch.is_grad_enabled()))
    assert modes == [is_enabled]


def test_compiling_repays_itself_by_work_and_never_on_a_cpu():
    cost = CallCost(flops=10**13, kernels=900)
    assert not repays(cost, 1e9, torch.device("cpu"))
    assert not CallCost(flops=10**13, kernels=900).is_launch_bound
    assert CallCost(flops=10**11, kernels=900).is_launch_bound


def test_a_failed_compilation_leaves_the_network_as_it_was(caplog: pytest.LogCaptureFixture):
    network, x = nn.Linear(2, 2), torch.randn(1, 2)
    expected = network(x)

    def trial() -> None:
        raise RuntimeError("\nno compiler found\ndetails")

    with caplog.at_level(logging.WARNING):
        assert not compile_or_warn(network, trial)
    assert [record.getMessage() for record in caplog.records] == [
        "the network could not be compiled and runs uncompiled, more slowly: no compiler found"
    ]
    assert torch.equal(network(x), expected)


def test_a_python_without_a_compiler_costs_a_warning(monkeypatch, caplog: pytest.LogCaptureFixture):
    def refused(module: nn.Module, **options: object) -> None:
        raise RuntimeError("torch.compile is not supported on Python 3.99")

    monkeypatch.setattr(nn.Module, "compile", refused)
    assert not compile_or_warn(nn.Linear(2, 2), lambda: None)
    assert "runs uncompiled, more slowly: torch.compile is not supported on Python 3.99" in caplog.text


@pytest.mark.parametrize(("with_gradients", "mode"), [(False, "reduce-overhead"), (True, None)])
def test_graphs_are_for_calls_without_gradients(monkeypatch, with_gradients, mode):
    # What a backward pass needs would be overwritten by the graph of the next network.
    modes: list[str | None] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, mode, **options: modes.append(mode))
    prepare = preparation("on", torch.device("cuda"), images=100)
    assert prepare is not None
    with FakeTensorMode(), torch.set_grad_enabled(with_gradients):
        network, x = nn.Linear(3, 3, device="cuda"), torch.empty(2, 3, device="cuda")
        prepare(network, lambda: network(x))  # fails, as fake numbers cannot be compared
    assert modes == [mode]


def test_memory_that_runs_out_in_the_trial_is_no_failure_of_the_compiler():
    network = nn.Linear(2, 2)

    def trial() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        compile_or_warn(network, trial)


class Slipping(nn.Module):
    """A network whose later answers differ from its first."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * (1 if self.calls < 3 else 2)


def test_a_compiled_network_that_answers_otherwise_is_not_used(monkeypatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(nn.Module, "compile", lambda module, **options: None)
    prepare = preparation("on", torch.device("cpu"), images=100)
    assert prepare is not None
    network, x = Slipping(), torch.ones(2, 3)
    with caplog.at_level(logging.WARNING):
        assert not prepare(network, lambda: network(x))
    assert "runs uncompiled, more slowly: its outputs differ by 1 of their size" in caplog.text


def test_nothing_is_tried_where_nothing_will_be_compiled():
    assert preparation(False, torch.device("cuda"), images=1e9) is None
    assert preparation("off", torch.device("cuda"), images=1e9) is None
    assert preparation("auto", torch.device("cpu"), images=1e9) is None


def test_a_network_compiled_on_a_cpu_answers_and_differentiates_as_before(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.manual_seed(0)
    plain, counter = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.SiLU()), Counter[str]()
    network = EvaluatedNetwork(plain, precision="float32", counter=counter, counted_as="network")
    prepare = preparation("on", torch.device("cpu"), images=100)
    assert prepare is not None
    network.compile_by(prepare)
    for images in (3, 2):
        x = torch.randn(images, 1, 8, 8, requires_grad=True)
        found, expected = network(x), plain(x)
        torch.testing.assert_close(found, expected)
        gradients = [torch.autograd.grad(output.square().sum(), x)[0] for output in (found, expected)]
        torch.testing.assert_close(*gradients)
    assert counter == {"network": 5}
    assert any(tmp_path.iterdir())


def test_torchs_limit_of_compilations_is_not_shared_by_all_networks(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    before, prepare = counters["stats"]["unique_graphs"], preparation(True, torch.device("cpu"), images=100)
    assert prepare is not None
    with torch._dynamo.config.patch(recompile_limit=1):
        for width in (5, 6):
            network = EvaluatedNetwork(
                nn.Linear(3, width), precision="float32", counter=Counter(), counted_as="network"
            )
            network.compile_by(prepare)
            network(torch.randn(2, 3))
    assert counters["stats"]["unique_graphs"] == before + 2
