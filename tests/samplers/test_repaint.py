"""Filling in images: what is known stays, and what is made agrees with it."""

from dataclasses import replace

import pytest
import torch
from oracles.mixture import GaussianMixture, batch_noise, draws, three_blobs
from torch import Tensor

from guided_diffusion.diffusion.chain import DiffusionChain, Step, posterior_mean
from guided_diffusion.diffusion.denoiser import Estimate
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.diffusion.schedules import ChainConfig, make_chain
from guided_diffusion.guidance import classifier_score
from guided_diffusion.samplers import SamplerConfig, SamplerName, ddpm, make_sampler
from guided_diffusion.samplers.repaint import initial_state, masked, repaint, with_known_pixels

FILL = torch.tensor([False, True, False, True]).reshape(1, 1, 2, 2)
KNOWN = torch.tensor([0.5, 0.0, -0.25, 0.0], dtype=torch.float64).reshape(1, 1, 2, 2)
CHAIN_CONFIG = ChainConfig(schedule="linear", num_steps=100)


@pytest.fixture
def chain() -> DiffusionChain:
    return make_chain(CHAIN_CONFIG)


def single(chain: DiffusionChain, covariance: Tensor) -> GaussianMixture:
    return GaussianMixture(draws(1, 4), covariance[None], torch.ones(1, dtype=torch.float64), chain)


def correlated() -> Tensor:
    """Each of the pixels to be made goes with a known one."""
    pair = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.float64) / 4
    return torch.block_diag(pair, pair)


@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2s", "heun", "unipc"])
def test_known_pixels_come_out_as_they_went_in_under_every_sampler_guided_too(chain, name: SamplerName):
    mixture = three_blobs(chain)
    config = SamplerConfig(name=name, steps=12)
    levels, x_T, known = config.levels(CHAIN_CONFIG), draws(6, 1, 2, 2), KNOWN.expand(6, 1, 2, 2)
    term = masked(classifier_score(mixture.log_prob, torch.full((6,), 1), 2.0), FILL)
    x_0 = make_sampler(config)(
        with_known_pixels(mixture.denoiser, known, FILL),
        levels,
        initial_state(x_T, known, FILL, levels),
        batch_noise(0),
        guidance=term,
    )
    torch.testing.assert_close(torch.where(FILL, 0.0, x_0), torch.where(FILL, 0.0, known), rtol=0, atol=1e-9)
    assert float(x_0[FILL.expand_as(x_0)].std()) > 0.01


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_known_pixels_come_out_where_the_network_gives_the_mean_itself(chain, name: SamplerName):
    """ddpm takes that mean in place of the posterior's, so it must be told the known pixels as well."""
    mixture = three_blobs(chain)

    def denoiser(x_t: Tensor, step: Step) -> Estimate:
        estimate = mixture.denoiser(x_t, step)
        return replace(estimate, mean=posterior_mean(x_t, estimate.x0, step) + 0.1)

    config = SamplerConfig(name=name, steps=12)
    levels, x_T, known = config.levels(CHAIN_CONFIG), draws(6, 1, 2, 2), KNOWN.expand(6, 1, 2, 2)
    told = with_known_pixels(denoiser, known, FILL)
    x_0 = make_sampler(config)(told, levels, initial_state(x_T, known, FILL, levels), batch_noise(0))
    torch.testing.assert_close(torch.where(FILL, 0.0, x_0), torch.where(FILL, 0.0, known), rtol=0, atol=1e-9)

    step = levels.at(6, like=x_T)
    mean, own = told(x_T, step).mean, denoiser(x_T, step).mean
    assert mean is not None
    assert own is not None
    assert torch.equal(mean, torch.where(FILL, own, posterior_mean(x_T, known, step)))


def test_known_pixels_are_on_the_way_what_the_forward_process_makes_of_them(chain):
    seen: dict[int, Tensor] = {}

    def keep(k: int, x_t: Tensor, estimate: object) -> None:
        seen[k] = x_t

    known = KNOWN.expand(20_000, 1, 2, 2)
    denoiser = with_known_pixels(single(chain, correlated()).denoiser, known, FILL)
    ddpm(denoiser, chain, initial_state(draws(20_000, 1, 2, 2), known, FILL, chain), batch_noise(1), on_step=keep)
    for k in (20, 60, 95):  # after the link from k, at level k - 1
        alpha_bar, pixel = float(chain.alpha_bar[k - 1]), seen[k][:, 0, 0, 0]
        # 5 standard errors of a mean and of a variance
        assert abs(float(pixel.mean()) - alpha_bar**0.5 * 0.5) < 5 * ((1 - alpha_bar) / 20_000) ** 0.5
        assert abs(float(pixel.var()) / (1 - alpha_bar) - 1) < 5 * (2 / 20_000) ** 0.5


def test_pixels_that_have_nothing_to_do_with_the_known_ones_are_made_as_if_there_were_none(chain):
    blob = single(chain, torch.eye(4, dtype=torch.float64) / 4)
    x_T, known = draws(50, 1, 2, 2), KNOWN.expand(50, 1, 2, 2)
    free = ddpm(blob.denoiser, chain, x_T, batch_noise(2))
    filled = ddpm(
        with_known_pixels(blob.denoiser, known, FILL), chain, initial_state(x_T, known, FILL, chain), batch_noise(2)
    )
    torch.testing.assert_close(torch.where(FILL, filled, 0.0), torch.where(FILL, free, 0.0), rtol=0, atol=1e-12)


def test_resampling_brings_the_made_pixels_to_what_the_known_ones_imply(chain):
    blob = single(chain, correlated())
    known, levels = KNOWN.expand(4000, 1, 2, 2), chain.shortened(torch.arange(4, 100, 5))
    mean = blob.means[0]
    implied = mean[1] + 0.9 * (0.5 - mean[0])  # E[x_1 | x_0 = 0.5], equal variances, correlation 0.9

    def error(resample_steps: int) -> float:
        x_T = initial_state(draws(4000, 1, 2, 2), known, FILL, levels)
        x_0 = repaint(
            with_known_pixels(blob.denoiser, known, FILL), levels, x_T, batch_noise(3), resample_steps=resample_steps
        )
        return abs(float(x_0[:, 0, 0, 1].mean() - implied))

    errors = [error(1), error(4), error(12)]
    assert errors[0] > 1.5 * errors[1] > 1.5 * errors[2]


def test_taking_each_link_once_is_ddpm_to_the_bit(chain):
    mixture = three_blobs(chain)
    term = classifier_score(mixture.log_prob, torch.zeros(3, dtype=torch.int64), 1.5)
    x_T = draws(3, 1, 2, 2)
    once = repaint(
        mixture.denoiser, chain, x_T, SeededNoise(0, range(3)), resample_steps=1, mean_shift=term
    )  # fmt: skip
    assert torch.equal(once, ddpm(mixture.denoiser, chain, x_T, SeededNoise(0, range(3)), mean_shift=term))


def test_resampling_asks_the_network_that_many_times_a_link_and_once_at_the_last(chain):
    levels, asked = chain.shortened(torch.arange(0, 100, 10)), []

    def counted(x_t: Tensor, step: Step):
        asked.append(float(step.t[0]))
        return three_blobs(chain).denoiser(x_t, step)

    repaint(counted, levels, draws(1, 1, 2, 2), batch_noise(0), resample_steps=3)
    assert asked == [t for t in range(90, 0, -10) for _ in range(3)] + [0]


def test_taking_links_less_than_once_is_refused(chain):
    with pytest.raises(ValueError, match="resample_steps is the number of times each link is taken, at least 1; got 0"):
        repaint(three_blobs(chain).denoiser, chain, draws(1, 1, 2, 2), batch_noise(0), resample_steps=0)
