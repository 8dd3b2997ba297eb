"""Ancestral sampling where its result is known: a mixture of Gaussians, one Gaussian, one point."""

import math

import pytest
import torch
from oracles.mixture import GaussianMixture, assert_is_component, batch_noise, draws, three_blobs
from torch.testing import assert_close

from guided_diffusion.diffusion.chain import posterior_mean
from guided_diffusion.diffusion.denoiser import Estimate, NetworkDenoiser, transition
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.diffusion.schedules import chain_from_betas, linear_betas, timestep_subset
from guided_diffusion.guidance import classifier_score, tilted
from guided_diffusion.samplers import ddpm

CHAIN = chain_from_betas(linear_betas(1000))
SHORT = CHAIN.shortened(timestep_subset(1000, "25"))
MIXTURE = three_blobs(CHAIN)
NUM_SAMPLES = 1000
ALL_ONE = torch.ones(NUM_SAMPLES, dtype=torch.int64)


def no_noise(like: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(like)


@pytest.mark.parametrize("place", ["mean shift", "tilted"])
def test_1000_guided_steps_reproduce_the_component(place):
    """Both places of the exact classifier's gradient turn the mixture's denoiser into a sampler of one component.

    Steps of finite length bias the variances by less than 2% (30,000 samples), under half of a standard error here.
    """
    term = classifier_score(MIXTURE.log_prob, ALL_ONE, scale=1.0)
    x_T = draws(NUM_SAMPLES, 2, 1, 2, seed=11)
    if place == "mean shift":
        x_0 = ddpm(MIXTURE.denoiser, CHAIN, x_T, batch_noise(5), mean_shift=term)
    else:
        x_0 = ddpm(tilted(MIXTURE.denoiser, term), CHAIN, x_T, batch_noise(5))
    assert_is_component(x_0, MIXTURE, y=1)


def test_the_moments_of_a_sampled_gaussian_follow_the_linear_recursion():
    """For one Gaussian every link is x_s = a x_t + b + noise, so mean and variance of x_0 follow in closed form.

    On each principal axis: E[x_0 | x_t] = mu + gain (x_t - sqrt(alpha_bar) mu), and Bayes' rule for x_s. The bound is
    Monte Carlo's alone: 25 long links are far from the component, and the recursion says how far.
    """
    mu, axis_vars = torch.tensor([0.5, -1.0], dtype=torch.float64), torch.tensor([0.3, 2.0], dtype=torch.float64)
    gaussian = GaussianMixture(mu[None], axis_vars.diag()[None], torch.ones(1).double(), CHAIN)
    mean, var = torch.zeros(2).double(), torch.ones(2).double()
    for k in reversed(range(25)):
        alpha_bar = SHORT.alpha_bar[k]
        alpha_bar_prev = SHORT.alpha_bar[k - 1] if k else torch.ones(()).double()
        alpha = alpha_bar / alpha_bar_prev
        gain = alpha_bar.sqrt() * axis_vars / (alpha_bar * axis_vars + 1 - alpha_bar)
        x0_weight = alpha_bar_prev.sqrt() * (1 - alpha) / (1 - alpha_bar)
        x_t_weight = alpha.sqrt() * (1 - alpha_bar_prev) / (1 - alpha_bar)
        slope = x0_weight * gain + x_t_weight
        mean = slope * mean + x0_weight * (1 - gain * alpha_bar.sqrt()) * mu
        var = slope**2 * var + (1 - alpha) * (1 - alpha_bar_prev) / (1 - alpha_bar)
    n = 20_000
    x_0 = ddpm(gaussian.denoiser, SHORT, draws(n, 1, 1, 2, seed=3), batch_noise(4)).flatten(1)
    assert ((x_0.mean(dim=0) - mean).abs() < 5 * (var / n).sqrt()).all()
    assert ((x_0.var(dim=0) - var).abs() < 5 * var * math.sqrt(2 / n)).all()
    assert (var < 0.97 * axis_vars).all()


@pytest.mark.parametrize("k", [1, 12, 24])
def test_the_large_variance_is_exact_for_standard_normal_data(k):
    """There x_s given x_t is N(sqrt(alpha) x_t, beta), DDPM section 3.2: every state stays standard normal."""
    x_t = draws(4, 1, 2, 2)
    step = SHORT.at(k, like=x_t)
    denoiser = NetworkDenoiser(lambda x, t: step.alpha_bar**0.5 * x, "x0", "large", clip=None)
    mean, var = transition(denoiser(x_t, step), x_t, step)
    alpha = step.alpha_bar / step.alpha_bar_prev
    assert_close(mean, alpha**0.5 * x_t, rtol=1e-12, atol=1e-12)
    assert var == pytest.approx(1 - alpha, rel=1e-12)


def test_the_small_variance_is_exact_for_data_of_one_point():
    """DDPM section 3.2: each state x_s is then distributed as q(x_s | x_0), and the end is the point."""
    point, n = torch.full((1, 1, 1, 2), 0.7, dtype=torch.float64), 20_000
    denoiser = NetworkDenoiser(lambda x, t: point.expand_as(x), "x0", "small")
    x_T = SHORT.alpha_bar[-1].sqrt() * point + (1 - SHORT.alpha_bar[-1]).sqrt() * draws(n, 1, 1, 2)

    def check(k, x, estimate):
        if k == 0:
            return
        signal, var = float(SHORT.alpha_bar[k - 1].sqrt()), float(1 - SHORT.alpha_bar[k - 1])
        assert (x.mean(dim=0) - signal * point).abs().max() < 5 * math.sqrt(var / n)
        assert (x.var(dim=0) - var).abs().max() < 5 * var * math.sqrt(2 / n)

    x_0 = ddpm(denoiser, SHORT, x_T, batch_noise(1), on_step=check)
    assert_close(x_0, point.expand_as(x_0), rtol=0, atol=1e-15)


def test_a_link_is_mean_plus_variance_times_shift_plus_deviation_times_noise():
    x_t = draws(3, 1, 2, 2)
    shift, noise = draws(3, 1, 2, 2, seed=1), draws(3, 1, 2, 2, seed=2)
    two = CHAIN.shortened(torch.tensor([300, 600]))
    states = {}
    ddpm(
        lambda x, step: Estimate(x0=0.5 * x, log_var=step.log_var_max),
        two,
        x_t,
        lambda like: noise,
        mean_shift=lambda x, step: shift,
        on_step=lambda k, x, estimate: states.update({k: x}),
    )
    for k, before in ((1, x_t), (0, states[1])):
        step = two.at(k, like=x_t)
        beta = 1 - step.alpha_bar / step.alpha_bar_prev
        expected = posterior_mean(before, 0.5 * before, step) + beta * shift + (k > 0) * beta**0.5 * noise
        assert_close(states[k], expected, rtol=1e-12, atol=1e-12)


def test_with_the_small_variance_the_last_link_is_not_shifted():
    denoiser = NetworkDenoiser(lambda x, t: 0.5 * x, "x0", "small")
    ends = []
    for shift in (0.0, 100.0):
        two = CHAIN.shortened(torch.tensor([300, 600]))
        ends.append(
            ddpm(
                denoiser,
                two,
                draws(3, 1, 2, 2),
                no_noise,
                mean_shift=lambda x, step, shift=shift: torch.full_like(x, shift * (step.alpha_bar_prev == 1)),
            )
        )
    assert torch.equal(*ends)


def test_the_classifier_sees_the_state_before_the_step():
    seen, states = [], [draws(3, 2, 1, 2)]
    ddpm(
        MIXTURE.denoiser,
        SHORT,
        states[0],
        batch_noise(0),
        mean_shift=lambda x, step: seen.append(x) or torch.zeros_like(x),
        on_step=lambda k, x, estimate: states.append(x),
    )
    assert all(torch.equal(a, b) for a, b in zip(seen, states[:-1], strict=True))


def test_noise_is_drawn_at_every_link_but_the_last():
    drawn = []
    ddpm(MIXTURE.denoiser, SHORT, draws(3, 2, 1, 2), lambda like: drawn.append(like.shape) or torch.zeros_like(like))
    assert drawn == [(3, 2, 1, 2)] * 24


def test_the_watcher_is_told_each_new_state_and_its_estimate():
    told = []
    x_0 = ddpm(
        MIXTURE.denoiser, SHORT, draws(3, 2, 1, 2), batch_noise(0), on_step=lambda k, x, e: told.append((k, x, e))
    )
    assert [k for k, _, _ in told] == list(reversed(range(25)))
    assert torch.equal(told[-1][1], x_0)
    before = told[-2][1]
    assert torch.equal(told[-1][2].x0, MIXTURE.denoiser(before, SHORT.at(0, like=before)).x0)


def test_the_last_estimate_is_the_result():
    """The last link has alpha_bar_prev 1: its posterior mean is x_0 itself."""
    told = []
    x_0 = ddpm(MIXTURE.denoiser, SHORT, draws(3, 2, 1, 2), batch_noise(0), on_step=lambda k, x, e: told.append(e.x0))
    assert torch.equal(x_0, told[-1])


def test_a_sample_does_not_depend_on_its_batch():
    """To the rounding of kernels that group a batch differently."""
    x_T = SeededNoise(0, range(5))(torch.empty(5, 2, 1, 2, dtype=torch.float64))
    together = ddpm(MIXTURE.denoiser, SHORT, x_T, SeededNoise(1, range(5)))
    alone = ddpm(MIXTURE.denoiser, SHORT, x_T[3:4], SeededNoise(1, [3]))
    assert_close(together[3:4], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("variance", ["small", "large", "learned_range"])
def test_float32_images_stay_float32(variance):
    def network(x, t):
        return torch.cat([x, x.tanh()], dim=1) if variance == "learned_range" else x

    denoiser = NetworkDenoiser(network, "eps", variance)
    x_0 = ddpm(
        denoiser, SHORT, draws(3, 2, 4, 4, dtype=torch.float32), SeededNoise(0, range(3)), mean_shift=lambda x, step: x
    )
    assert x_0.dtype == torch.float32
    assert torch.isfinite(x_0).all()


def test_sampling_keeps_no_gradient_and_leaves_x_T_alone():
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    denoiser = NetworkDenoiser(lambda x, t: weight * x, "x0", "small")
    x_T = draws(3, 2, 1, 2)
    kept = x_T.clone()
    assert not ddpm(denoiser, SHORT, x_T, batch_noise(0)).requires_grad
    assert torch.equal(x_T, kept)
