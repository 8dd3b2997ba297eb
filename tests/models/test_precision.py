"""Networks in a precision of their own, counted, and compiled for one batch size."""

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from guided_diffusion.models.precision import EvaluatedNetwork, InPrecision
from guided_diffusion.models.unet import UNet, UNetConfig


def unet() -> UNet:
    torch.manual_seed(0)
    network = UNet(
        UNetConfig(image_size=8, base_channels=32, channel_mult=(1, 2), attention_sizes=(4,), blocks_per_level=1)
    )
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    return network.eval().requires_grad_(False)


def test_rounded_weights_give_what_autocast_gives_and_leave_the_network_as_it_is():
    network, x_t, t = unet(), torch.randn(2, 3, 8, 8), torch.tensor([3.0, 800.0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = network(x_t, t).float()
    assert torch.equal(InPrecision(network, "bfloat16")(x_t, t), expected)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert InPrecision(network, "float32").network is network


class Rows(nn.Module):
    """A network that remembers the batches it sees and runs out of memory beyond some size."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []
        self.fitting = 100

    def forward(self, x_t: Tensor, t: Tensor, *, y: Tensor | None = None) -> Tensor:
        self.seen.append(len(x_t))
        if len(x_t) > self.fitting:
            raise torch.OutOfMemoryError("out of memory")
        return x_t.square() * t[:, None] + (0 if y is None else y[:, None])


def evaluated(network: nn.Module, *, compiles: bool = True) -> tuple[EvaluatedNetwork, Counter[str]]:
    counter = Counter[str]()
    made = EvaluatedNetwork(network, precision="float32", counter=counter, counted_as="network")
    made.compile_by(lambda network, call: compiles)
    return made, counter


def test_a_short_batch_of_a_compiled_network_is_padded_and_neither_counted_nor_seen_in_its_output():
    rows = Rows()
    network, counter = evaluated(rows)
    x, t, y = torch.randn(5, 2), torch.arange(5.0), torch.arange(5)
    assert torch.equal(network(x, t, y=y), x.square() * t[:, None] + y[:, None])
    assert torch.equal(network(x[:3], t[:3], y=y[:3]), (x.square() * t[:, None] + y[:, None])[:3])
    assert torch.equal(network(torch.cat([x, x]), torch.cat([t, t]))[5:], x.square() * t[:, None])
    network(x, t)
    assert rows.seen == [5, 5, 10, 10]
    assert counter == {"network": 23}


def test_gradients_pass_the_padding():
    network, _ = evaluated(Rows())
    network(torch.randn(4, 2), torch.ones(4))
    x = torch.randn(3, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(x, torch.ones(3)).sum(), x)
    assert torch.equal(gradient, 2 * x)


def test_a_network_is_compiled_for_calls_with_gradients_or_for_those_without():
    called: list[bool] = []
    network, _ = evaluated(Rows())
    network.network.register_forward_hook(lambda *_: called.append(torch.is_grad_enabled()))  # of the compiled call
    for is_enabled in (False, True, False):
        with torch.set_grad_enabled(is_enabled):
            network(torch.randn(2, 2), torch.ones(2))
    assert called == [False, False]


def test_a_compiled_network_sees_contiguous_images_alone():
    class Strides(nn.Module):
        def forward(self, x_t: Tensor) -> Tensor:
            seen.add(x_t.stride())
            return x_t

    seen = set[tuple[int, ...]]()
    network, _ = evaluated(Strides())
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(network(x), network(x.to(memory_format=torch.channels_last)))
    assert seen == {(48, 16, 4, 1)}


def test_an_uncompiled_network_sees_batches_as_they_are():
    rows = Rows()
    network, _ = evaluated(rows, compiles=False)
    network(torch.randn(5, 2), torch.ones(5))
    network(torch.randn(3, 2), torch.ones(3))
    assert rows.seen == [5, 3]


def test_after_memory_ran_out_smaller_batches_are_not_padded_to_the_size_that_did_not_fit():
    rows = Rows()
    network, _ = evaluated(rows)
    network(torch.randn(8, 2), torch.ones(8))
    rows.fitting = 5
    with pytest.raises(torch.OutOfMemoryError):
        network(torch.randn(8, 2), torch.ones(8))
    network(torch.randn(4, 2), torch.ones(4))
    network(torch.randn(2, 2), torch.ones(2))
    assert rows.seen == [8, 8, 4, 4]


def test_where_the_trial_runs_out_of_memory_a_smaller_batch_has_a_trial_again():
    trials: list[int] = []
    network, _ = evaluated(Rows())

    def prepare(network: nn.Module, call: object) -> bool:
        trials.append(1)
        if len(trials) == 1:
            raise torch.OutOfMemoryError("out of memory")
        return True

    network.compile_by(prepare)
    with pytest.raises(torch.OutOfMemoryError):
        network(torch.randn(8, 2), torch.ones(8))
    network(torch.randn(4, 2), torch.ones(4))
    network.compile_by(prepare)  # compiled already
    network(torch.randn(4, 2), torch.ones(4))
    assert len(trials) == 2
