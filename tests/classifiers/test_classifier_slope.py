"""The size and the soundness of gradients, against functions whose slopes are known."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from classifiers.probes import correction_ratio, slope_error
from guided_diffusion.diffusion.schedules import chain_from_betas, linear_betas
from guided_diffusion.guidance import classifier_score

CHAIN = chain_from_betas(linear_betas(50))
SHAPE = (6, 1, 4, 4)
Y = torch.arange(6) % 2
T = torch.zeros(6)


def drawn(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth(x_t: Tensor, t: Tensor) -> Tensor:
    """Log-probabilities of two classes that are not linear in x_t."""
    return F.log_softmax(torch.stack([x_t.sum(dim=(1, 2, 3)), (x_t**2).sum(dim=(1, 2, 3))], dim=1), dim=1)


def gradient(x_t: Tensor) -> Tensor:
    return classifier_score(smooth, Y, 1.0)(x_t, CHAIN.at(0, like=x_t))


def test_the_correction_is_measured_beside_the_noise_sample_by_sample():
    eps, factors = drawn(0), torch.arange(6.0).double().reshape(-1, 1, 1, 1)
    step = CHAIN.at(30, like=eps)
    assert torch.allclose(correction_ratio(factors * eps, eps, step), (1 - step.alpha_bar) ** 0.5 * factors.flatten())
    k = torch.tensor([0, 10, 20, 30, 40, 49])
    own = CHAIN.at(k, like=eps)
    assert torch.allclose(correction_ratio(eps, eps, own), (1 - CHAIN.alpha_bar[k]) ** 0.5)


def test_the_gradient_of_a_smooth_function_is_its_slope():
    x_t = drawn(1)
    assert slope_error(gradient(x_t), smooth, x_t, T, Y, direction=drawn(2)) < 1e-7


@pytest.mark.parametrize("excess", [-0.05, 0.05, 1.0])
def test_a_gradient_off_by_a_factor_is_off_by_that(excess):
    x_t = drawn(1)
    error = slope_error((1 + excess) * gradient(x_t), smooth, x_t, T, Y, direction=drawn(2))
    assert error == pytest.approx(abs(excess) / max(1, 1 + excess), abs=1e-7)


def test_the_gradient_of_the_other_class_is_no_slope_of_this_one():
    x_t = drawn(1)
    assert slope_error(gradient(x_t), smooth, x_t, T, 1 - Y, direction=drawn(2)) > 0.5


def test_no_gradient_of_no_slope_is_right_and_some_gradient_of_no_slope_is_wrong():
    x_t = drawn(1)

    def flat(x_t: Tensor, t: Tensor) -> Tensor:
        return x_t.new_full((len(x_t), 2), 0.5).log()

    assert slope_error(torch.zeros(SHAPE), flat, x_t, T, Y, direction=drawn(2)) == 0
    assert slope_error(gradient(x_t), flat, x_t, T, Y, direction=drawn(2)) == 1


def test_the_length_of_the_direction_does_not_matter():
    x_t, direction = drawn(1), drawn(2)
    wrong = 1.1 * gradient(x_t)
    short, long = (slope_error(wrong, smooth, x_t, T, Y, direction=c * direction) for c in (0.01, 100.0))
    assert short == pytest.approx(long, rel=1e-6)
