"""Compiled networks: what a call costs, and what happens where compiling fails."""

import logging

import pytest
import torch
from torch import nn

from guided_diffusion.compilation import CallCost, call_cost, compile_or_warn, repays


def test_a_call_costs_two_operations_for_each_multiplication_and_addition():
    linear, x = nn.Linear(3, 5, bias=False), torch.randn(2, 3)
    cost = call_cost(lambda: linear(x).relu())
    assert cost.flops == 2 * 2 * 3 * 5
    assert cost.kernels == 2  # the transposed weight is a view


def test_the_backward_pass_costs_too():
    conv, x = nn.Conv2d(1, 1, 3), torch.randn(1, 1, 4, 4)
    forward = call_cost(lambda: conv(x)).flops
    assert call_cost(lambda: conv(x).sum().backward()).flops == 2 * forward  # x needs no gradient, the weight does


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


def test_memory_that_runs_out_in_the_trial_is_no_failure_of_the_compiler():
    network = nn.Linear(2, 2)

    def trial() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        compile_or_warn(network, trial)
