"""Nats of guidance on noised images: Gaussians in closed form, the exact classifier of a mixture, bands of links."""

from itertools import pairwise

import pytest
import torch
from oracles.mixture import batch_noise, three_blobs
from torch import Tensor

from classifiers.calibration import log_likelihood
from classifiers.information import link_weights, spent_information
from classifiers.probes import noised_predictions
from guided_diffusion.data.subset import evenly_spaced
from guided_diffusion.diffusion.chain import DiffusionChain
from guided_diffusion.diffusion.schedules import chain_from_betas, cosine_betas, linear_betas

MEAN, VAR, VAR_OF_ALL = 0.7, 0.3, 1.5
"""x_0 of the class is N(MEAN, VAR), x_0 of all N(0, VAR_OF_ALL)."""


def variances(alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    return alpha_bar * VAR + 1 - alpha_bar, alpha_bar * VAR_OF_ALL + 1 - alpha_bar


def squared_gradient(alpha_bar: Tensor) -> Tensor:
    """E over q(x_t | y) of |grad log q(x_t | y) / q(x_t)|^2."""
    own, all_ = variances(alpha_bar)
    return alpha_bar * MEAN**2 / all_**2 + own * (1 / all_ - 1 / own) ** 2


def divergence(alpha_bar: Tensor) -> Tensor:
    """KL(q(x_t | y) || q(x_t))."""
    own, all_ = variances(alpha_bar)
    return 0.5 * ((own + alpha_bar * MEAN**2) / all_ - 1 + (all_ / own).log())


def betas(chain: DiffusionChain) -> Tensor:
    return 1 - chain.alpha_bar / torch.cat([torch.ones(1, dtype=torch.float64), chain.alpha_bar[:-1]])


def test_on_gaussians_the_sum_over_all_links_has_its_closed_form():
    chain = chain_from_betas(linear_betas(50))
    links = range(50)

    def log_ratio(x_t: Tensor, t: Tensor) -> Tensor:
        alpha_bar = chain.alpha_bar[t.long()].reshape(-1, 1, 1, 1)
        own, all_ = variances(alpha_bar)
        squares = (x_t - alpha_bar**0.5 * MEAN) ** 2 / own - x_t**2 / all_
        return -0.5 * (squares + (own / all_).log()).flatten(1)

    # The gradient is linear in x_t, so that four points with the moments of (x_0, noise) have its exact mean square.
    x0 = MEAN + VAR**0.5 * torch.tensor([1.0, 1, -1, -1], dtype=torch.float64).reshape(4, 1, 1, 1)
    noise = torch.tensor([1.0, -1, 1, -1], dtype=torch.float64).reshape(4, 1, 1, 1)
    found = noised_predictions(log_ratio, chain, links, x0, torch.zeros(4).long(), lambda like: noise)
    squared = torch.stack([level.squared_gradients for level in found], dim=1)
    information = spent_information(squared, link_weights(chain, links), log_likelihood=0.0, y=torch.zeros(4).long())
    expected = 0.5 * (betas(chain) * squared_gradient(chain.alpha_bar)).sum()
    assert information.spent == pytest.approx(float(expected), rel=1e-6)


def test_an_exact_classifier_spends_the_divergence_as_links_shrink_and_eleven_levels_suffice():
    exact, found = divergence(torch.ones((), dtype=torch.float64)), []
    for num_steps in (500, 1000):
        chain = chain_from_betas(linear_betas(num_steps))
        squared = squared_gradient(chain.alpha_bar)
        found.append(float(link_weights(chain, range(num_steps)).sum(dim=0) @ squared))
    assert 2 * found[1] - found[0] == pytest.approx(float(exact), rel=1e-4)  # Richardson: the error is of first order
    few = evenly_spaced(1000, most=11)
    assert float(link_weights(chain, few).sum(dim=0) @ squared[few]) == pytest.approx(float(exact), rel=0.03)


@pytest.mark.parametrize("links", [(0, 3, 4, 19), (0, 19), (2, 7)])
def test_bands_of_links_add_up_to_the_chain(links):
    chain = chain_from_betas(cosine_betas(20))
    weights, half_beta = link_weights(chain, links), 0.5 * betas(chain)
    borders = [-1, *links[:-1], 19]  # beyond the last measured link its gradient stands for the rest
    bands = [float(half_beta[low + 1 : high + 1].sum()) for low, high in pairwise(borders)]
    assert weights.sum(dim=1).tolist() == pytest.approx(bands)
    linear = torch.arange(20.0).double()
    inside = slice(links[0], links[-1] + 1)
    outside = half_beta[: links[0]].sum() * links[0] + half_beta[links[-1] + 1 :].sum() * links[-1]
    expected = (half_beta * linear)[inside].sum() + outside
    assert float(weights.sum(dim=0) @ linear[list(links)]) == pytest.approx(float(expected))


def test_the_exact_classifier_of_a_mixture_spends_what_it_gains_between_any_two_levels():
    chain = chain_from_betas(linear_betas(1000))
    mixture, links, generator = three_blobs(chain), evenly_spaced(1000, most=21), torch.Generator().manual_seed(0)
    y = mixture.weights.multinomial(4000, replacement=True, generator=generator)
    x0 = mixture.draw(y, generator=generator).reshape(-1, 1, 2, 2)
    levels = list(noised_predictions(mixture.log_prob, chain, links, x0, y, batch_noise(1)))
    squared = torch.stack([level.squared_gradients for level in levels], dim=1)
    weights = link_weights(chain, links)
    knows = [log_likelihood(level.log_p, y) for level in levels]
    information = spent_information(squared, weights, log_likelihood=knows[0], y=y)
    assert 0 < information.known < information.ceiling
    assert abs(information.spent - information.known) < 4 * information.standard_error
    spent, gained = (weights @ squared.mean(dim=0))[1:], -torch.tensor(knows).double().diff()
    assert torch.allclose(spent, gained, rtol=0, atol=0.015)  # 4 standard errors of the difference, at the largest band
