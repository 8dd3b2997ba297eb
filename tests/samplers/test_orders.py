"""The orders of the deterministic samplers, on the probability flow of a Gaussian in closed form.

Measured at the chain's least noisy level, a lambda that all chains share: the link from there to x_0 is no step of a
refinement.
"""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from oracles.mixture import draws, three_blobs
from oracles.probability_flow import flowed, lambda_chain
from torch.testing import assert_close

from guided_diffusion.diffusion.chain import DiffusionChain, sigma
from guided_diffusion.diffusion.schedules import chain_from_betas, linear_betas
from guided_diffusion.guidance import classifier_score, tilted
from guided_diffusion.samplers import ddim, dpmpp_2m, dpmpp_2s, heun, unipc
from guided_diffusion.samplers.dpmpp import exponential_step, half_log_snr

MIXTURE = three_blobs(chain_from_betas(linear_betas(1000)))
X_T, ONES = draws(6, 2, 1, 2, seed=3), torch.ones(6, dtype=torch.int64)
ORDERS = {ddim: 1, dpmpp_2m: 2, dpmpp_2s: 2, heun: 2, unipc: 3}
"""UniC-p raises the order of UniP-p by one (2302.04867 Theorem 3.1)."""


def refused_noise(like: torch.Tensor) -> torch.Tensor:
    raise AssertionError("a deterministic sampler asked for noise")


def state_at_the_last_level(sampler, denoiser, chain: DiffusionChain) -> torch.Tensor:
    states = {}
    sampler(denoiser, chain, X_T, refused_noise, on_step=lambda k, x, estimate: states.update({k: x}))
    return states[1].flatten(1)


def errors(sampler, denoiser, num_links: tuple[int, ...]) -> list[float]:
    found = []
    for n in num_links:
        chain = lambda_chain(n)
        ends = {"alpha_bar": float(chain.alpha_bar[-1]), "alpha_bar_end": float(chain.alpha_bar[0])}
        exact = flowed(X_T.flatten(1), MIXTURE, 1, **ends)
        found.append(float((state_at_the_last_level(sampler, denoiser, chain) - exact).abs().max()))
    return found


@pytest.mark.parametrize("sampler", ORDERS, ids=lambda sampler: sampler.__name__)
def test_halving_the_links_divides_the_error_by_two_to_the_order(sampler):
    found = errors(sampler, MIXTURE.component_denoiser(ONES), (80, 160, 320))
    for coarse, fine in pairwise(found):
        # The next order's share of the error is below 4% from 80 links on.
        assert coarse / fine == pytest.approx(2 ** ORDERS[sampler], rel=0.04)


@pytest.mark.parametrize("sampler", ORDERS, ids=lambda sampler: sampler.__name__)
def test_guided_by_the_exact_classifier_a_solver_goes_the_components_way(sampler):
    """Guided beforehand, the estimates that a solver remembers are those of the component."""
    chain = lambda_chain(40)
    oracle = replace(MIXTURE, chain=chain)  # its classifier is told t and looks alpha_bar up
    by_classifier = tilted(oracle.denoiser, classifier_score(oracle.log_prob, ONES, scale=1.0))
    states = [
        state_at_the_last_level(sampler, denoiser, chain)
        for denoiser in (by_classifier, MIXTURE.component_denoiser(ONES))
    ]
    assert_close(*states, rtol=1e-9, atol=1e-9)


def test_the_second_order_samplers_beat_the_first_order_one_by_far_at_few_steps():
    denoiser = MIXTURE.component_denoiser(ONES)
    (by_ddim,), *others = (errors(sampler, denoiser, (20,)) for sampler in (ddim, dpmpp_2m, dpmpp_2s, heun, unipc))
    assert all(error < by_ddim / 3 for (error,) in others)


def test_the_exponential_step_is_a_link_of_ddim():
    chain = lambda_chain(2)
    states = {}
    denoiser = MIXTURE.component_denoiser(ONES)
    ddim(denoiser, chain, X_T, refused_noise, on_step=lambda k, x, estimate: states.update({k: (x, estimate.x0)}))
    x_s, x0 = states[2]
    alpha_bar, alpha_bar_s = float(chain.alpha_bar[2]), float(chain.alpha_bar[1])
    assert_close(exponential_step(X_T, x0, alpha_bar=alpha_bar, alpha_bar_s=alpha_bar_s), x_s, rtol=1e-12, atol=1e-12)


def test_lambda_is_half_the_logarithm_of_signal_to_noise():
    assert half_log_snr(0.8) == pytest.approx(-torch.tensor(sigma(0.8)).log().item(), rel=1e-6)
    assert half_log_snr(1.0) == float("inf")
    assert half_log_snr(0.0) == -float("inf")


def test_heuns_first_half_is_euler_which_is_ddim():
    """EDM's Euler step in x / sqrt(alpha_bar), which is why there is no sampler of that name."""
    chain = lambda_chain(10)
    seen = []

    def denoiser(x_t, step):
        seen.append(x_t)
        return MIXTURE.component_denoiser(ONES)(x_t, step)

    heun(denoiser, chain, X_T, refused_noise)
    states = []
    ddim(MIXTURE.component_denoiser(ONES), chain, X_T, refused_noise, on_step=lambda k, x, estimate: states.append(x))
    assert_close(seen[1], states[0], rtol=1e-12, atol=1e-12)
