"""Measurements y = A x_0 + noise: operators, rules and the posterior of Gaussian data, against closed forms."""

import pytest
import torch
import torch.nn.functional as F
from oracles.mixture import GaussianMixture, batch_noise, draws
from torch.testing import assert_close

from guided_diffusion.diffusion.denoiser import Estimate
from guided_diffusion.diffusion.schedules import chain_from_betas, linear_betas, timestep_subset
from guided_diffusion.guidance import guided_through
from guided_diffusion.guidance.measurement import RULES, average_pooling, gaussian_blur, known_pixels
from guided_diffusion.samplers import ddim, ddpm

CHAIN = chain_from_betas(linear_betas(1000))
SHORT = CHAIN.shortened(timestep_subset(1000, "10"))
SIDE, NOISE = 4, 0.3
MASK = draws(SIDE, SIDE, seed=5) > 0
OPERATORS = {
    "blur": gaussian_blur(SIDE, 0.8),
    "pool": average_pooling(SIDE, 2),
    "mask": known_pixels(MASK),
}
x_t = draws(3, 1, SIDE, SIDE, seed=1)
MEAN = draws(SIDE * SIDE, seed=2)
UNIT = GaussianMixture(MEAN[None], torch.eye(SIDE**2).double()[None], torch.ones(1).double(), CHAIN)


def matrix(operator) -> torch.Tensor:
    """A as a matrix (M^2, S^2), column by column."""
    pixels = torch.eye(SIDE**2, dtype=torch.float64).reshape(-1, 1, SIDE, SIDE)
    return operator(pixels).flatten(1).mT


def measured(operator) -> torch.Tensor:
    return operator(x_t.flip(0)) + NOISE * operator(draws(3, 1, SIDE, SIDE, seed=3))


def log_density(rule: str, operator, y=None, *, noise=NOISE):
    y = measured(operator) if y is None else y
    return lambda x_0, step: RULES[rule](operator, y - operator(x_0), noise, step)


def posterior(operator, y) -> GaussianMixture:
    """p(x_0 | y) of N(MEAN, I), a component for each measurement."""
    a = matrix(operator)
    covariance = torch.linalg.inv(torch.eye(SIDE**2).double() + a.mT @ a / NOISE**2)
    means = MEAN + (y.flatten(1) - a @ MEAN) @ a @ covariance / NOISE**2
    return GaussianMixture(means, covariance.expand(len(y), -1, -1), torch.ones(len(y)).double() / len(y), CHAIN)


def test_operators_are_pooling_a_gaussian_and_a_mask():
    assert_close(OPERATORS["pool"](x_t), F.avg_pool2d(x_t, 2))
    assert torch.equal(OPERATORS["mask"](x_t), x_t * MASK)
    weights = matrix(gaussian_blur(SIDE, 0.8))
    assert_close(weights.sum(dim=1), torch.ones(SIDE**2).double())
    first = weights[0].reshape(SIDE, SIDE)
    assert_close(first[1, 2] / first[0, 0], torch.tensor(-5 / (2 * 0.8**2)).double().exp())


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("k", [0, 300, 999])
def test_for_gaussian_data_of_unit_covariance_the_pseudoinverse_rule_is_exact(name, k):
    """The guided denoiser is that of p(x_0 | y), at every level."""
    operator, step = OPERATORS[name], CHAIN.at(k, like=x_t)
    guided = guided_through(UNIT.denoiser, log_density("pseudoinverse", operator), 1.0)(x_t, step)
    exact = posterior(operator, measured(operator)).component_mean(x_t, step, torch.arange(3))
    assert_close(guided.x0, exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", [ddim, ddpm])
def test_samples_of_gaussian_data_are_those_of_the_posterior(sampler):
    operator = OPERATORS["blur"]
    guided = guided_through(UNIT.denoiser, log_density("pseudoinverse", operator), 1.0)
    exact = posterior(operator, measured(operator)).component_denoiser(torch.arange(3))
    made, expected = (sampler(denoiser, SHORT, x_t, batch_noise(0)) for denoiser in (guided, exact))
    assert_close(made, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["pool", "mask"])
def test_jensens_approximation_is_too_strong_by_the_variance_of_x_0_that_it_leaves_out(name):
    """A A^T is 1/4 for pooling and 1 for a mask: the exact likelihood has NOISE^2 + (1 - alpha_bar) A A^T."""
    operator, step = OPERATORS[name], CHAIN.at(300, like=x_t)
    variance = NOISE**2 + (1 - step.alpha_bar) * {"pool": 0.25, "mask": 1.0}[name]
    plain = log_density("likelihood", operator)(x_t, step)
    exact = log_density("pseudoinverse", operator)(x_t, step)
    assert_close(plain * NOISE**2, exact * variance)
    assert (plain < exact).all()


def test_a_step_of_dps_is_its_algorithm_1():
    """x_s - zeta / |y - A x_0(x_t)| grad_{x_t} |y - A x_0(x_t)|^2, by hand."""
    operator, zeta = OPERATORS["blur"], 0.7
    y, chain = measured(operator), SHORT
    guided = ddpm(guided_through(denoiser, log_density("dps", operator, y), zeta), chain, x_t, batch_noise(0))
    x, noise = x_t, batch_noise(0)
    for k in reversed(range(len(chain))):
        x_in = x.clone().requires_grad_(True)
        residual = (y - operator(denoiser(x_in, chain.at(k, like=x)).x0)).flatten(1)
        (gradient,) = torch.autograd.grad(residual.square().sum(), x_in)
        norm = residual.detach().norm(dim=1).reshape(-1, 1, 1, 1)
        x = ddpm(denoiser, OneLink(chain, k), x, noise) - zeta / norm * gradient
    assert_close(guided, x, rtol=1e-9, atol=1e-9)


def denoiser(x, step):
    return Estimate(x0=x.tanh(), log_var=step.log_var_min, var=0.0)


class OneLink:
    """The link k of a chain as a chain."""

    def __init__(self, chain, k: int) -> None:
        self.chain, self.k = chain, k

    def __len__(self) -> int:
        return 1

    def at(self, k: int, *, like):
        return self.chain.at(self.k, like=like)


def test_dps_where_the_measurement_is_met_adds_nothing():
    operator, step = OPERATORS["pool"], CHAIN.at(300, like=x_t)
    met = operator(denoiser(x_t, step).x0)
    guided = guided_through(denoiser, log_density("dps", operator, met), 1.0)(x_t, step)
    assert torch.equal(guided.x0, denoiser(x_t, step).x0)
