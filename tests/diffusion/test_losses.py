"""Losses: closed forms of the bound's terms, the stopped gradient, the weights."""

import math

import pytest
import torch
from oracles.mixture import draws
from torch.testing import assert_close

from guided_diffusion.diffusion.chain import posterior_mean, q_sample, v_target
from guided_diffusion.diffusion.denoiser import TARGET, Estimate, has_learned_variance
from guided_diffusion.diffusion.images import from_uint8
from guided_diffusion.diffusion.losses import (
    Noised,
    approximate_normal_cdf,
    bound_term,
    grey_level_log_likelihood,
    hybrid_loss,
    min_snr_weight,
    per_sample_mean,
    prior_bound,
    simple_loss,
    vlb_loss,
)
from guided_diffusion.diffusion.schedules import chain_from_betas, linear_betas, timestep_subset

CHAIN = chain_from_betas(linear_betas(1000)).shortened(timestep_subset(1000, "25"))
x0 = from_uint8(torch.randint(0, 256, (3, 2, 4, 4), generator=torch.Generator().manual_seed(0))).double()
eps = draws(3, 2, 4, 4, seed=2)
LEARNED = {"prediction": "eps", "variance": "learned_range"}


@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "mean"])
def test_simple_loss_of_the_target_is_zero_and_of_an_offset_its_square(prediction):
    step = CHAIN.at(torch.tensor([0, 12, 24]), like=x0)
    x_t = q_sample(x0, eps, step)
    target = {"eps": eps, "x0": x0, "v": v_target(x0, eps, step), "mean": posterior_mean(x_t, x0, step)}[prediction]
    offset = torch.tensor([0.0, 0.5, 2.0]).double()
    output = target + offset[:, None, None, None]
    loss = simple_loss(output, Noised(x0, eps, x_t, step), prediction=prediction, variance="small")
    assert_close(loss, offset**2, rtol=1e-12, atol=0)


def test_simple_loss_does_not_see_the_variance_channels():
    step = CHAIN.at(12, like=x0)
    x_t = q_sample(x0, eps, step)
    losses = [
        simple_loss(torch.cat([x_t, draws(3, 2, 4, 4, seed=seed)], 1), Noised(x0, eps, x_t, step), **LEARNED)
        for seed in (1, 2)
    ]
    assert torch.equal(*losses)


def test_losses_are_means_over_pixels_of_each_sample():
    values = draws(3, 2, 4, 4)
    assert_close(per_sample_mean(values), values.flatten(1).mean(dim=1))


@pytest.mark.parametrize("k", [1, 12, 24])
def test_bound_term_of_the_truth_is_what_the_wrong_variance_costs(k):
    """x_0 known: with the posterior's variance the divergence is 0, with beta it is (r - 1 - log r) / 2."""
    step = CHAIN.at(k, like=x0)
    x_t = q_sample(x0, eps, step)
    exact = bound_term(Estimate(x0=x0, log_var=step.log_var_min), x0, x_t, step)
    assert_close(exact, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-14)
    ratio = math.exp(step.log_var_min - step.log_var_max)
    expected = 0.5 * (ratio - 1 - math.log(ratio)) / math.log(2)
    large = bound_term(Estimate(x0=x0, log_var=step.log_var_max), x0, x_t, step)
    assert_close(large, torch.full((3,), expected, dtype=torch.float64), rtol=1e-10, atol=1e-14)


def test_bound_term_of_a_wrong_x0_is_half_the_squared_distance_in_posterior_deviations():
    step = CHAIN.at(12, like=x0)
    x_t = q_sample(x0, eps, step)
    bound = bound_term(Estimate(x0=x0 + 0.1, log_var=step.log_var_min), x0, x_t, step)
    weight = step.alpha_bar_prev**0.5 * (1 - step.alpha_bar / step.alpha_bar_prev) / (1 - step.alpha_bar)
    expected = 0.5 * (0.1 * weight) ** 2 / math.exp(step.log_var_min) / math.log(2)
    assert_close(bound, torch.full((3,), expected, dtype=torch.float64), rtol=1e-10, atol=0)


def test_bound_term_at_the_last_link_is_the_likelihood_of_the_grey_levels():
    step = CHAIN.at(0, like=x0)
    estimate = Estimate(x0=0.9 * x0, log_var=step.log_var_min, var=0.0)
    log_std = torch.full_like(x0, 0.5 * step.log_var_min)
    expected = -grey_level_log_likelihood(x0, 0.9 * x0, log_std).flatten(1).mean(dim=1) / math.log(2)
    assert_close(bound_term(estimate, x0, q_sample(x0, eps, step), step), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("variance", ["small", "large", "learned", "learned_range"])
def test_bound_of_mixed_steps_agrees_with_one_step_for_all(variance):
    indices = torch.tensor([0, 1, 24])
    mixed = CHAIN.at(indices, like=x0)
    x_t = q_sample(x0, eps, mixed)
    output = draws(3, 4 if has_learned_variance(variance) else 2, 4, 4, seed=5)
    arguments = {"prediction": "x0", "variance": variance, "num_steps": 25}
    together = vlb_loss(output, Noised(x0, eps, x_t, mixed), **arguments)
    for row, k in enumerate(indices.tolist()):
        one = slice(row, row + 1)
        alone = vlb_loss(output[one], Noised(x0[one], eps[one], x_t[one], CHAIN.at(k, like=x_t[one])), **arguments)
        assert_close(together[one], alone, rtol=1e-12, atol=0)


def test_vlb_loss_is_the_bound_term_times_the_number_of_steps():
    step = CHAIN.at(12, like=x0)
    x_t = q_sample(x0, eps, step)
    loss = vlb_loss(x_t, Noised(x0, eps, x_t, step), prediction="x0", variance="large", num_steps=25)
    assert_close(loss, 25 * bound_term(Estimate(x0=x_t, log_var=step.log_var_max), x0, x_t, step))


def test_hybrid_loss_is_the_weighted_sum():
    step = CHAIN.at(torch.tensor([0, 12, 24]), like=x0)
    noised, output = Noised.of(x0, eps, step), draws(3, 4, 4, 4, seed=5)
    simple = simple_loss(output, noised, **LEARNED)
    vlb = vlb_loss(output, noised, **LEARNED, num_steps=25)
    hybrid = hybrid_loss(output, noised, **LEARNED, num_steps=25)
    assert_close(hybrid, simple + 0.001 * vlb, rtol=1e-14, atol=0)
    heavier = hybrid_loss(output, noised, **LEARNED, num_steps=25, vlb_weight=1.0)
    assert_close(heavier, simple + vlb, rtol=1e-14, atol=0)


def gradient(loss, output: torch.Tensor) -> torch.Tensor:
    output = output.clone().requires_grad_(True)
    return torch.autograd.grad(loss(output).sum(), output)[0]


def test_hybrid_loss_teaches_the_mean_by_l_simple_and_the_variance_by_the_bound():
    step = CHAIN.at(torch.tensor([0, 12, 24]), like=x0)
    noised, output = Noised.of(x0, eps, step), draws(3, 4, 4, 4, seed=5)
    hybrid = gradient(lambda o: hybrid_loss(o, noised, **LEARNED, num_steps=25), output)
    simple = gradient(lambda o: simple_loss(o, noised, **LEARNED), output)
    vlb = gradient(lambda o: vlb_loss(o, noised, **LEARNED, num_steps=25), output)
    assert torch.equal(hybrid[:, :2], simple[:, :2])
    # Far from the grey level its gradient is 1e-7, a difference of terms of order 1.
    assert_close(hybrid[:, 2:], 0.001 * vlb[:, 2:], rtol=1e-12, atol=1e-15)
    assert vlb[:, :2].abs().max() > 0
    assert simple[:, 2:].abs().max() == 0


def test_prior_bound_is_the_divergence_from_the_standard_normal():
    assert_close(prior_bound(x0, 0.0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=0)
    expected = 0.5 * (0.25 * x0**2 + 0.75 - 1 - math.log(0.75)).flatten(1).mean(dim=1) / math.log(2)
    assert_close(prior_bound(x0, 0.25), expected, rtol=1e-13, atol=0)


def test_probabilities_of_the_256_grey_levels_sum_to_one():
    """They telescope, the end bins being open; the floor of 1e-12 adds at most 256e-12."""
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean, log_std in ((0.0, -1.0), (0.7, -3.0), (-1.2, 0.5), (1.0, -6.0)):
        log_p = grey_level_log_likelihood(levels, torch.full_like(levels, mean), torch.full_like(levels, log_std))
        assert float(log_p.exp().sum()) == pytest.approx(1, abs=3e-10), (mean, log_std)


def test_likelihood_of_a_wide_bin_is_the_normal_density_times_its_width():
    """Up to two deviations of 20 bins: the midpoint rule is off by 1e-4, the slope of the tanh form by up to 1%."""
    x = torch.arange(88, 168, dtype=torch.float64) / 127.5 - 1
    log_std = torch.full_like(x, math.log(20 * 2 / 255))
    density = torch.distributions.Normal(torch.zeros_like(x), log_std.exp()).log_prob(x) + math.log(2 / 255)
    assert_close(grey_level_log_likelihood(x, torch.zeros_like(x), log_std), density, rtol=0, atol=0.01)


def test_likelihood_is_floored_far_from_the_mean():
    x = torch.zeros(3, dtype=torch.float64)
    log_p = grey_level_log_likelihood(x, torch.full_like(x, 0.9), torch.full_like(x, -6.0))
    assert_close(log_p, torch.full_like(x, math.log(1e-12)))


def test_approximate_cdf_is_within_its_stated_error():
    x = torch.linspace(-8, 8, 4001).double()
    assert (approximate_normal_cdf(x) - torch.special.ndtr(x)).abs().max() < 2e-4


@pytest.mark.parametrize("gamma", [0.01, 5.0, 1e9])
@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_an_error_of_x0_costs_min_snr_whatever_the_network_predicts(prediction, gamma):
    """The same error of x_0, said as an error of eps or v: at one x_t they are linear in one another."""
    step = CHAIN.at(torch.tensor([0, 12, 24]), like=x0)
    x_t, wrong_x0 = q_sample(x0, eps, step), x0 + draws(3, 2, 4, 4, seed=7)
    wrong_eps = (x_t - step.alpha_bar**0.5 * wrong_x0) / (1 - step.alpha_bar) ** 0.5
    output = TARGET[prediction](wrong_x0, wrong_eps, x_t, step)
    simple = simple_loss(output, Noised(x0, eps, x_t, step), prediction=prediction, variance="small")
    snr = (step.alpha_bar / (1 - step.alpha_bar)).flatten()
    expected = snr.clamp(max=gamma) * per_sample_mean((wrong_x0 - x0) ** 2)
    # At the least noisy level eps = (x_t - 0.99.. x_0) / 0.01, which costs two digits.
    assert_close(min_snr_weight(step, prediction=prediction, gamma=gamma) * simple, expected, rtol=1e-10, atol=0)


def test_min_snr_weights_of_eps_are_1_at_and_above_the_noise_of_gamma():
    step = CHAIN.at(torch.arange(25), like=torch.zeros(25, 1, 1, 1, dtype=torch.float64))
    weight = min_snr_weight(step, prediction="eps", gamma=5.0)
    is_noisy = (step.alpha_bar / (1 - step.alpha_bar)).flatten() <= 5
    assert 0 < int(is_noisy.sum()) < 25
    assert weight[is_noisy].tolist() == [1.0] * int(is_noisy.sum())
    assert bool((weight[~is_noisy] < 1).all())
    assert bool((weight.diff() >= 0).all())


def test_min_snr_has_no_weight_for_a_predicted_mean():
    with pytest.raises(ValueError, match='min-SNR weights are for prediction "eps", "x0", "v", not "mean"'):
        min_snr_weight(CHAIN.at(3, like=x0), prediction="mean", gamma=5.0)


def test_a_weight_of_l_simple_leaves_the_bound_as_it_is():
    step = CHAIN.at(torch.tensor([0, 12, 24]), like=x0)
    noised, output = Noised.of(x0, eps, step), draws(3, 4, 4, 4, seed=5)
    weight = torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)
    simple = simple_loss(output, noised, **LEARNED)
    plain = hybrid_loss(output, noised, **LEARNED, num_steps=25)
    weighted = hybrid_loss(output, noised, **LEARNED, num_steps=25, simple_weight=weight)
    assert_close(weighted - plain, (weight - 1) * simple, rtol=1e-10, atol=1e-14)
