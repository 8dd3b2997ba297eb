"""The schedule in continuous time: its closed form, its draws, and sampling on any number of its levels."""

import math

import pytest
import torch
from oracles.mixture import GaussianMixture, batch_noise, draws, three_blobs
from torch.testing import assert_close

from guided_diffusion.diffusion.chain import posterior_mean, q_sample
from guided_diffusion.diffusion.schedules import (
    ChainConfig,
    OffsetCosine,
    chain_from_betas,
    linear_betas,
    make_chain,
    offset_cosine_angle,
    offset_cosine_chain,
    sampling_chain,
    training_chain,
)
from guided_diffusion.samplers import ddim, ddpm

CONFIG = ChainConfig(schedule="offset_cosine", num_steps=40)
TIME = torch.linspace(0, 1, 101, dtype=torch.float64)


def test_the_signal_rate_falls_from_095_to_002_and_the_noise_rate_rises_in_step():
    angle = offset_cosine_angle(TIME)
    assert_close(angle[[0, -1]].cos(), torch.tensor([0.95, 0.02], dtype=torch.float64), rtol=0, atol=1e-15)
    assert bool((angle.cos().diff() < 0).all())
    assert bool((angle.sin().diff() > 0).all())
    equal_parts = (angle[-1] - angle[0]) / 100
    assert_close(angle.diff(), equal_parts.expand(100), rtol=1e-12, atol=0)


def test_a_drawn_link_goes_from_its_time_straight_to_x0_and_tells_the_noise_rate():
    like = torch.zeros(101, 1, 2, 2, dtype=torch.float64)
    step = OffsetCosine().drawn(TIME, like=like)
    angle = offset_cosine_angle(TIME)
    assert step.t.shape == (101,)
    assert step.alpha_bar.shape == (101, 1, 1, 1)
    assert_close(step.t, 1000 * angle.sin())
    assert_close(step.alpha_bar.flatten(), angle.cos() ** 2)
    assert step.alpha_bar_prev.eq(1).all()
    x0, x_t = draws(101, 1, 2, 2), draws(101, 1, 2, 2, seed=1)
    assert torch.equal(posterior_mean(x_t, x0, step), x0)


def test_noised_images_keep_their_variance():
    """Of unit-variance images, cos^2 + sin^2."""
    step = OffsetCosine().drawn(TIME, like=torch.zeros(101, 1, 1, 1, dtype=torch.float64))
    signal = q_sample(torch.ones(101, 1, 1, 1).double(), torch.zeros(101, 1, 1, 1).double(), step)
    noise = q_sample(torch.zeros(101, 1, 1, 1).double(), torch.ones(101, 1, 1, 1).double(), step)
    assert_close(signal**2 + noise**2, torch.ones_like(signal), rtol=1e-14, atol=0)


@pytest.mark.parametrize("num_steps", [2, 3, 100])
def test_levels_to_sample_on_lie_on_the_line_that_training_draws_from(num_steps):
    chain = offset_cosine_chain(num_steps)
    times = torch.arange(1, num_steps + 1, dtype=torch.float64) / num_steps
    step = OffsetCosine().drawn(times, like=torch.zeros(num_steps, 1, dtype=torch.float64))
    assert torch.equal(chain.alpha_bar, step.alpha_bar.flatten())
    assert torch.equal(chain.t, step.t)
    assert float(chain.alpha_bar[-1]) == pytest.approx(0.02**2, rel=1e-12)
    assert chain.at(0, like=torch.zeros(1, 1)).alpha_bar_prev == 1


def test_any_number_of_levels_is_made_anew_and_the_configs_own_by_default():
    for spec, count in (("", 40), ("7", 7), ("ddim7", 7), ("100", 100)):
        chain = sampling_chain(CONFIG, spec)
        assert torch.equal(chain.alpha_bar, offset_cosine_chain(count).alpha_bar), spec
    assert torch.equal(make_chain(CONFIG).t, offset_cosine_chain(40).t)


def test_sections_of_steps_and_a_single_level_are_refused():
    with pytest.raises(ValueError, match='"10,20" counts timesteps per section, but the offset_cosine'):
        sampling_chain(CONFIG, "10,20")
    with pytest.raises(ValueError, match='cannot read the timesteps "many"'):
        sampling_chain(CONFIG, "many")
    with pytest.raises(ValueError, match="a chain needs at least 2 noise levels, got 1"):
        sampling_chain(CONFIG, "1")


def test_what_the_network_is_told_is_not_rescaled():
    with pytest.raises(ValueError, match=r"chain.rescale_t is for numbered steps; .* leave it out"):
        ChainConfig(schedule="offset_cosine", rescale_t=True)


def test_training_draws_from_the_table_or_from_all_times():
    u = torch.tensor([0.2, 0.7], dtype=torch.float64)
    like = torch.zeros(2, 1, 2, 2)
    assert torch.equal(training_chain(CONFIG).drawn(u, like=like).t, OffsetCosine().drawn(u, like=like).t)
    table = ChainConfig(schedule="cosine", num_steps=50)
    assert training_chain(table).drawn(u, like=like).t.tolist() == [10.0, 35.0]


def last_estimates(mixture: GaussianMixture, y: int, alpha_bar: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of E[x_0 | x_t] over component y's x_t, which is linear in x_t."""
    covariance = mixture.covariances[y]
    noised = alpha_bar * covariance + (1 - alpha_bar) * torch.eye(len(covariance), dtype=torch.float64)
    return mixture.means[y], alpha_bar * covariance @ torch.linalg.solve(noised, covariance)


@pytest.mark.parametrize("sampler", [ddim, ddpm])
def test_a_hundred_steps_of_the_exact_denoiser_land_on_the_mixture(sampler):
    """The last link's x_0 is E[x_0 | x_t], which has less variance than x_0, by closed form. Shares and means to five
    standard errors and a hundredth, covariances to a twentieth, since a hundred steps are not endlessly many."""
    blobs = three_blobs(chain_from_betas(linear_betas(1000)))
    chain = offset_cosine_chain(100)
    apart = GaussianMixture(4 * blobs.means, blobs.covariances, blobs.weights, chain)
    count = 20_000
    x_0 = sampler(apart.denoiser, chain, draws(count, 4, 1, 1, seed=3), batch_noise(4))
    y = torch.cdist(x_0.flatten(1), apart.means).argmin(dim=1)
    for component, weight in enumerate(apart.weights.tolist()):
        share = float((y == component).double().mean())
        assert abs(share - weight) < 5 * math.sqrt(weight * (1 - weight) / count) + 0.01
        mean, covariance = last_estimates(apart, component, float(chain.alpha_bar[0]))
        found = x_0[y == component].flatten(1)
        standard_error = (covariance.diagonal() / len(found)).sqrt()
        assert float(((found.mean(dim=0) - mean).abs() - 5 * standard_error).max()) < 0.01
        assert float((found.mT.cov() - covariance).abs().max()) < 0.05 * float(covariance.abs().max())
