"""Langevin dynamics where their result is known: one step by hand, a Gaussian's moments, one component of two."""

import math

import pytest
import torch
from oracles.mixture import GaussianMixture, assert_is_component, batch_noise, draws, three_blobs
from torch.testing import assert_close

from guided_diffusion.diffusion.denoiser import Estimate
from guided_diffusion.diffusion.schedules import chain_from_betas, linear_betas, timestep_subset
from guided_diffusion.guidance import classifier_score, tilted
from guided_diffusion.samplers import ddpm, langevin, predictor_corrector
from guided_diffusion.samplers.langevin import langevin_warning, noise_excess, score
from guided_diffusion.samplers.spacing import uniformly_in_log_sigma

CHAIN = chain_from_betas(linear_betas(1000))
SHORT = CHAIN.shortened(timestep_subset(1000, "25"))
MIXTURE = three_blobs(CHAIN)


@pytest.mark.parametrize("k", [0, 12, 24])
def test_the_score_is_the_gradient_of_the_log_density(k):
    x_t = draws(6, 2, 1, 2)
    step = SHORT.at(k, like=x_t)
    # Tweedie's formula divides a difference by 1 - alpha_bar, 1e-4 at the last link.
    assert_close(score(x_t, MIXTURE.denoiser(x_t, step).x0, step), MIXTURE.score(x_t, step), rtol=1e-9, atol=1e-9)


def test_the_moments_of_an_annealed_gaussian_follow_the_linear_recursion():
    """For one Gaussian a Langevin step is linear, so mean and variance of x_0 follow in closed form.

    On each axis the score is -(x_t - sqrt(alpha_bar) mu) / marginal variance. Few levels and steps are far from the
    Gaussian itself, and the recursion says how far: the bound is Monte Carlo's alone.
    """
    mu, axis_vars = torch.tensor([0.5, -1.0], dtype=torch.float64), torch.tensor([0.3, 2.0], dtype=torch.float64)
    gaussian = GaussianMixture(mu[None], axis_vars.diag()[None], torch.ones(1).double(), CHAIN)
    chain, snr, moves = CHAIN.shortened(uniformly_in_log_sigma(CHAIN, 8)), 0.3, 3
    off, var = -(chain.alpha_bar[-1] ** 0.5) * mu, torch.ones(2).double()  # of x_T from the level's own mean
    for k in reversed(range(len(chain))):
        alpha_bar = chain.alpha_bar[k]
        marginal_var = alpha_bar * axis_vars + 1 - alpha_bar
        size = 2 * snr**2 * (1 - alpha_bar)
        for _ in range(moves):
            off, var = (1 - size / marginal_var) * off, (1 - size / marginal_var) ** 2 * var + 2 * size
        handed_on = chain.alpha_bar[k - 1] / alpha_bar if k else (alpha_bar.sqrt() * axis_vars / marginal_var) ** 2
        off, var = handed_on.sqrt() * off, handed_on * var
    n = 20_000
    x_T = draws(n, 1, 1, 2, seed=3)
    x_0 = langevin(gaussian.denoiser, chain, x_T, batch_noise(4), snr=snr, langevin_steps=moves).flatten(1)
    assert ((x_0.mean(dim=0) - mu - off).abs() < 5 * (var / n).sqrt()).all()
    assert ((x_0.var(dim=0) - var).abs() < 5 * var * math.sqrt(2 / n)).all()
    assert ((var / axis_vars - 1).abs() > 0.1).any()


def test_a_correction_is_the_papers_with_norms_of_each_sample():
    x_T, z = draws(3, 2, 1, 2, seed=1), draws(3, 2, 1, 2, seed=2)
    seen = []

    def denoiser(x_t, step):
        seen.append(x_t)
        return MIXTURE.denoiser(x_t, step)

    predictor_corrector(denoiser, SHORT, x_T, lambda like: z, snr=0.16)
    gradient = MIXTURE.score(x_T, SHORT.at(24, like=x_T))
    alpha = float(SHORT.alpha_bar[24] / SHORT.alpha_bar[23])
    for i in range(3):
        size = 2 * alpha * (0.16 * float(z[i].norm()) / float(gradient[i].norm())) ** 2
        assert_close(seen[1][i], x_T[i] + size * gradient[i] + math.sqrt(2 * size) * z[i], rtol=1e-9, atol=1e-9)


def test_without_corrections_the_predictor_is_ancestral_sampling():
    x_T, ancestral, number = draws(3, 2, 1, 2), iter(draws(24, 3, 2, 1, 2, seed=5)), iter(range(100))

    def noise(like):
        return next(ancestral) if next(number) % 2 else torch.ones_like(like)

    corrected = predictor_corrector(MIXTURE.denoiser, SHORT, x_T, noise, snr=1e-12)
    again = iter(draws(24, 3, 2, 1, 2, seed=5))
    assert_close(corrected, ddpm(MIXTURE.denoiser, SHORT, x_T, lambda like: next(again)), rtol=1e-9, atol=1e-9)


def two_far_blobs() -> GaussianMixture:
    """In 48 dimensions, where a norm says something: in 4 that of one sample's noise is anything."""
    means = 0.5 * draws(2, 48, seed=6)
    axis_vars = 0.05 + 0.2 * draws(2, 48, seed=7).abs()
    return GaussianMixture(means, torch.diag_embed(axis_vars), torch.tensor([0.6, 0.4], dtype=torch.float64), CHAIN)


def test_guided_by_the_exact_classifier_predicted_and_corrected_samples_are_the_components():
    mixture, n = two_far_blobs(), 300
    term = classifier_score(mixture.log_prob, torch.ones(n, dtype=torch.int64), scale=1.0)
    chain = CHAIN.shortened(timestep_subset(1000, "200"))
    x_T = draws(n, 3, 4, 4, seed=11)
    x_0 = predictor_corrector(tilted(mixture.denoiser, term), chain, x_T, batch_noise(5))
    assert_is_component(x_0, mixture, y=1)


def test_correcting_brings_a_predictor_of_few_links_nearer_to_the_data():
    """25 ancestral links leave the variances a third too small, and one correction at each a quarter."""
    mixture, n = two_far_blobs(), 2000
    y = torch.ones(n, dtype=torch.int64)
    wanted = mixture.covariances[1].diagonal()
    denoiser, x_T = mixture.component_denoiser(y), draws(n, 3, 4, 4, seed=11)
    plain = ddpm(denoiser, SHORT, x_T, batch_noise(5)).flatten(1).var(dim=0)
    corrected = predictor_corrector(denoiser, SHORT, x_T, batch_noise(5)).flatten(1).var(dim=0)
    assert float((plain / wanted).mean()) < 0.7 < 0.75 < float((corrected / wanted).mean()) < 1


@pytest.mark.parametrize("sampler", [langevin, predictor_corrector])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"snr": 0.0}, "snr sets the length of Langevin's steps and must be above 0; got 0.0"),
        ({"snr": float("nan")}, "must be above 0; got nan"),
        ({"langevin_steps": 0}, "langevin_steps is a number of steps at each level, at least 1; got 0"),
    ],
)
def test_steps_that_do_not_move_are_refused_before_anything_is_computed(sampler, options, message):
    def denoiser(x, step):
        raise AssertionError("called")

    with pytest.raises(ValueError, match=message):
        sampler(denoiser, SHORT, draws(3, 2, 1, 2), batch_noise(0), **options)


def test_the_noise_left_over_is_that_of_the_samples_of_a_known_image():
    """With one image in the data the estimate of x_0 is exact, and the states' noise is what the formula says."""
    chain, seen = CHAIN.shortened(uniformly_in_log_sigma(CHAIN, 4)), []

    def denoiser(x_t, step):
        seen.append((x_t, step.alpha_bar))
        return Estimate(x0=torch.zeros_like(x_t), log_var=0.0)

    langevin(denoiser, chain, draws(20_000, 1, 1, 1), batch_noise(1), snr=0.3, langevin_steps=6)
    final = float(seen[-1][0].var() / (1 - seen[-1][1]))  # at the end of the last level, where most is left
    assert final > 3
    assert noise_excess(chain, snr=0.3, langevin_steps=6) == pytest.approx(final, rel=5 * (2 / 20_000) ** 0.5)


def test_langevin_of_too_few_steps_says_what_to_choose():
    ten, published = (CHAIN.shortened(uniformly_in_log_sigma(CHAIN, levels)) for levels in (10, 25))
    told = langevin_warning(ten, snr=0.05**0.5, langevin_steps=10)
    assert told is not None
    assert told.startswith("10 levels of 10 steps of snr 0.224 leave 5.88 times")
    assert "take sampler.langevin_steps 20 or more, or more levels (sampler.steps)" in told
    assert langevin_warning(ten, snr=0.05**0.5, langevin_steps=20) is None
    assert langevin_warning(published, snr=0.05**0.5, langevin_steps=100) is None
    told = langevin_warning(ten, snr=1.5, langevin_steps=10)
    assert told is not None
    assert "a smaller sampler.snr" in told
