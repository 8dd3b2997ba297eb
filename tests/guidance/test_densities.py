"""Densities of predicted values: exact where image and value are Gaussian, and a sum over attributes."""

import math

import torch
import torch.nn.functional as F
from oracles.mixture import GaussianMixture, draws, three_blobs
from torch import Tensor
from torch.testing import assert_close

from guided_diffusion.diffusion.chain import Step
from guided_diffusion.diffusion.schedules import chain_from_betas, linear_betas, timestep_subset
from guided_diffusion.guidance import score_of, tilted
from guided_diffusion.guidance.densities import attributes_density, gaussian_density, gaussian_log_likelihood
from guided_diffusion.samplers import heun

CHAIN = chain_from_betas(linear_betas(1000))
BLOB = three_blobs(CHAIN)
MEAN, COVARIANCE = BLOB.means[0], BLOB.covariances[0]
IMAGES = GaussianMixture(MEAN[None], COVARIANCE[None], torch.ones(1, dtype=torch.float64), CHAIN)
"""One Gaussian in four dimensions."""
SLOPE = torch.tensor([1.0, -0.5, 2.0, 0.25], dtype=torch.float64)
NOISE_VAR, VALUE = 0.3, 1.7
"""The value of an image is SLOPE . x_0 and noise of variance NOISE_VAR; VALUE is asked for."""


def posterior(mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of x_0 ~ N(mean, covariance) given VALUE, by Kalman's formula."""
    gain = covariance @ SLOPE / (SLOPE @ covariance @ SLOPE + NOISE_VAR)
    return mean + (VALUE - mean @ SLOPE)[..., None] * gain, covariance - torch.outer(gain, covariance @ SLOPE)


def covariance_given(alpha_bar: float) -> Tensor:
    """Covariance of x_0 given x_t."""
    return (COVARIANCE.inverse() + torch.eye(4).double() * alpha_bar / (1 - alpha_bar)).inverse()


def exact_regression(x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance of the value given x_t."""
    step = CHAIN.at(int(t[0]), like=x_t)
    var = SLOPE @ covariance_given(float(step.alpha_bar)) @ SLOPE + NOISE_VAR
    return IMAGES.denoiser(x_t, step).x0.flatten(1) @ SLOPE, var.log().expand(len(x_t))


def test_a_gaussian_value_tilts_the_denoiser_to_the_posterior_mean_of_images_of_that_value():
    guided = tilted(IMAGES.denoiser, score_of(gaussian_density(exact_regression, VALUE), 1.0))
    for k in (0, 200, 999):
        x_t = draws(5, 1, 2, 2, seed=k)
        step = CHAIN.at(k, like=x_t)
        plain = IMAGES.denoiser(x_t, step).x0.flatten(1)
        expected, _ = posterior(plain, covariance_given(float(step.alpha_bar)))
        assert_close(guided(x_t, step).x0.flatten(1), expected, atol=1e-11, rtol=0)


def test_guided_sampling_at_scale_1_has_mean_and_covariance_of_the_images_of_that_value():
    """Samples are a linear function of x_T here, which five of them determine."""
    chain = CHAIN.shortened(timestep_subset(1000, "50"))
    denoiser = tilted(IMAGES.denoiser, score_of(gaussian_density(exact_regression, VALUE), 1.0))
    x_T = torch.cat([torch.zeros(1, 4), torch.eye(4)]).double().reshape(5, 1, 2, 2)
    x_0 = heun(denoiser, chain, x_T, torch.zeros_like).flatten(1)
    mean, covariance = posterior(MEAN, COVARIANCE)
    linear = x_0[1:] - x_0[0]
    assert_close(x_0[0], mean, atol=0.003, rtol=0)  # of x_T, sqrt(alpha_bar_T) = 0.006 is left out
    assert_close(linear.T @ linear, covariance, atol=0.003, rtol=0)  # second order in 1 / 50


def test_the_likelihood_is_a_density_in_nats():
    value = torch.linspace(-30, 30, 4001, dtype=torch.float64)
    mean, log_var = torch.tensor(0.7).double(), torch.tensor(math.log(4.0)).double()
    log_p = gaussian_log_likelihood(mean, log_var, value)
    assert_close(torch.trapezoid(log_p.exp(), value), torch.ones((), dtype=torch.float64))
    assert_close(log_p, torch.distributions.Normal(0.7, 2.0).log_prob(value).double())


def test_attributes_add_their_log_probabilities_and_those_not_asked_for_are_left_open():
    weights = draws(4, 3, seed=1)

    def log_odds(x_t: Tensor, t: Tensor) -> Tensor:
        return x_t.flatten(1) @ weights + t[:, None].double()

    x_t, t = draws(6, 1, 2, 2, seed=2), torch.zeros(6)
    step = Step(t, alpha_bar=0.5, alpha_bar_prev=1.0, log_var_min=0.0, log_var_max=0.0)
    first, third = (F.logsigmoid(sign * log_odds(x_t, t)[:, i]) for i, sign in ((0, 1), (2, -1)))
    density = attributes_density(log_odds, {0: True, 2: False})
    assert_close(density(x_t, step), first + third)
    score = score_of(density, 1.0)(x_t, step).flatten(1)
    p = log_odds(x_t, t).sigmoid()
    assert_close(score, (1 - p[:, :1]) * weights[:, 0] - p[:, 2:] * weights[:, 2])
