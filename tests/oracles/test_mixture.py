"""The oracle against itself: each quantity by a second route, so that the tests that lean on it stand on something."""

import pytest
import torch
from oracles.mixture import GaussianMixture, draws, three_blobs
from torch.testing import assert_close

from guided_diffusion.diffusion.schedules import chain_from_betas, linear_betas

CHAIN = chain_from_betas(linear_betas(1000))
LEVELS = [0, 3, 200, 500, 999]


@pytest.mark.parametrize("k", LEVELS)
def test_score_is_the_gradient_of_the_log_density(k):
    mixture, x_t = three_blobs(CHAIN), draws(5, 2, 1, 2).requires_grad_(True)
    step = CHAIN.at(k, like=x_t)
    (gradient,) = torch.autograd.grad(mixture.log_density(x_t, step).sum(), x_t)
    assert_close(mixture.score(x_t, step), gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("k", LEVELS)
def test_denoiser_is_tweedies_formula(k):
    """E[x_0 | x_t] = (x_t + (1 - alpha_bar) score) / sqrt(alpha_bar): the denoiser does not know the score."""
    mixture, x_t = three_blobs(CHAIN), draws(5, 2, 1, 2)
    step = CHAIN.at(k, like=x_t)
    tweedie = (x_t + (1 - step.alpha_bar) * mixture.score(x_t, step)) / step.alpha_bar**0.5
    assert_close(mixture.denoiser(x_t, step).x0, tweedie, rtol=1e-10, atol=1e-10)


def test_classifier_is_bayes_rule_on_the_marginals():
    mixture, x_t = three_blobs(CHAIN), draws(5, 2, 1, 2)
    step = CHAIN.at(400, like=x_t)
    means, covariances = mixture.marginal(step)
    likelihoods = [
        torch.distributions.MultivariateNormal(mean, covariance).log_prob(x_t.flatten(1)).exp()
        for mean, covariance in zip(means, covariances, strict=True)
    ]
    joint = torch.stack(likelihoods, dim=1) * mixture.weights
    assert_close(mixture.log_prob(x_t, step.t).exp(), joint / joint.sum(dim=1, keepdim=True), rtol=1e-12, atol=1e-12)
    assert_close(mixture.log_density(x_t, step), joint.sum(dim=1).log(), rtol=1e-12, atol=1e-12)


def test_component_mean_is_gaussian_conditioning():
    """mu + sqrt(alpha_bar) C (alpha_bar C + (1 - alpha_bar) I)^-1 (x_t - sqrt(alpha_bar) mu), by a linear solve."""
    mixture, x_t = three_blobs(CHAIN), draws(3, 2, 1, 2)
    step = CHAIN.at(400, like=x_t)
    means, covariances = mixture.marginal(step)
    for y in range(3):
        gain = step.alpha_bar**0.5 * mixture.covariances[y] @ torch.linalg.inv(covariances[y])
        expected = mixture.means[y] + (x_t.flatten(1) - means[y]) @ gain.mT
        actual = mixture.component_mean(x_t, step, torch.full((3,), y))
        assert_close(actual.flatten(1), expected, rtol=1e-12, atol=1e-12)


def test_one_step_per_sample_equals_one_step_for_all():
    mixture, x_t = three_blobs(CHAIN), draws(3, 2, 1, 2)
    indices = torch.tensor([0, 500, 999])
    mixed = CHAIN.at(indices, like=x_t)
    for row, k in enumerate(indices.tolist()):
        one = x_t[row : row + 1]
        step = CHAIN.at(k, like=one)
        assert_close(mixture.denoiser(x_t, mixed).x0[row], mixture.denoiser(one, step).x0[0])
        assert_close(mixture.log_prob(x_t, mixed.t)[row], mixture.log_prob(one, step.t)[0])


def test_draws_have_the_moments_of_their_component():
    """Bounds of 5 standard errors: sqrt(var / n) of a mean, sqrt((c_ii c_jj + c_ij^2) / n) of a covariance."""
    mixture, n = three_blobs(CHAIN), 20_000
    x_0 = mixture.draw(torch.full((n,), 2), generator=torch.Generator().manual_seed(0))
    covariance = mixture.covariances[2]
    variance = covariance.diagonal()
    assert ((x_0.mean(dim=0) - mixture.means[2]).abs() < 5 * (variance / n).sqrt()).all()
    standard_error = ((torch.outer(variance, variance) + covariance**2) / n).sqrt()
    assert ((x_0.mT.cov() - covariance).abs() < 5 * standard_error).all()


def test_a_timestep_of_another_chain_is_refused():
    mixture = GaussianMixture(*(getattr(three_blobs(CHAIN), n) for n in ("means", "covariances", "weights")), CHAIN)
    with pytest.raises(ValueError, match="has no timestep"):
        mixture.log_prob(draws(1, 2, 1, 2), torch.tensor([30.25]))
