"""Averages of weights: their profiles over the iterations, read off weights that are the unit vectors in turn."""

import pytest
import tiny
import torch
from safetensors.torch import load_file
from small_loop import train
from torch import Tensor, nn

from guided_diffusion.training.ema import EMA
from guided_diffusion.weight_averages import WIDEST, exponent, initial_share

LENGTH = 2000


def profiles(names: list[str], length: int = LENGTH) -> dict[str, Tensor]:
    """(length + 1,) float64 each: the shares of the weights of every iteration, the initial ones first."""
    network = nn.ParameterList([nn.Parameter(torch.eye(length + 1, dtype=torch.float64)[0])])
    ema = EMA(network, names)
    for iteration in range(1, length + 1):
        with torch.no_grad():
            network[0][iteration - 1 : iteration + 1] = torch.tensor([0.0, 1.0])
        ema.update(iteration)
    return {name: averages[0] for name, averages in ema.averages.items()}


@pytest.mark.parametrize(("width", "gamma"), [(0.05, 16.97), (0.1, 6.94), (WIDEST, 0.0)])
def test_the_exponent_of_a_width_is_the_published_one(width, gamma):
    """The first two are in 2312.02696 section 3.2; the standard deviation of a uniform variable is 12^-1/2."""
    assert exponent(width) == pytest.approx(gamma, abs=5e-3)


def test_a_power_average_has_the_profile_of_its_width():
    widths = (0.02, 0.1, 0.25)
    iterations = torch.arange(LENGTH + 1, dtype=torch.float64)
    for name, shares in profiles([f"ema_power_{width}" for width in widths]).items():
        width = float(name.removeprefix("ema_power_"))
        assert float(shares.sum()) == pytest.approx(1, abs=1e-12)
        assert float(shares[0]) == 0  # the initial weights
        mean = (shares * iterations).sum()
        deviation = (shares * (iterations - mean) ** 2).sum().sqrt()
        assert float(deviation / LENGTH) == pytest.approx(width, abs=1e-3)
        primitive = (iterations / LENGTH) ** (exponent(width) + 1)
        torch.testing.assert_close(shares[1:], primitive.diff(), rtol=1e-9, atol=1e-15)  # the function, integrated


def test_initial_weights_have_the_share_that_previews_tell():
    for name, shares in profiles(["ema_0.9", "ema_power_0.1"], length=10).items():
        assert initial_share(name, 0) == 1
        assert float(shares[0]) == pytest.approx(initial_share(name, 10), rel=1e-12)


def test_the_first_update_is_the_whole_power_average(tmp_path, class_folder):
    train(tmp_path, class_folder, tiny.loop(iterations=1, ema_widths=(0.1,)))
    network, average = (
        load_file(tmp_path / "checkpoint-0000001" / f"{name}.safetensors") for name in ("network", "ema_power_0.1")
    )
    assert all(torch.equal(network[key], average[key]) for key in network)
