"""Exact guidance by particles where its result is known: a Gaussian whose twist is linear, and a mixture.

For x_0 ~ N(0, 1) with its exact denoiser every link is linear, so that the chain's own x_0 has a known variance v. A
twist a x then has Z = E exp(a x_0) = exp(a^2 v / 2) and the tilted law N(a v, v), whatever guided in between.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from oracles.mixture import GaussianMixture, batch_noise, draws, three_blobs
from torch import Tensor
from torch.testing import assert_close

from guided_diffusion.diffusion.chain import DiffusionChain, Step, posterior_mean_weights, sigma
from guided_diffusion.diffusion.denoiser import Estimate
from guided_diffusion.diffusion.noise import SeededNoise, particle_choices
from guided_diffusion.diffusion.schedules import ChainConfig, chain_from_betas, linear_betas, timestep_subset
from guided_diffusion.guidance import class_log_density, classifier_score, score_of
from guided_diffusion.guidance.nats import NatsMeter
from guided_diffusion.guidance.twist import Twist
from guided_diffusion.samplers import SamplerConfig, ddpm, repaint
from guided_diffusion.samplers.config import make_particle_filter
from guided_diffusion.samplers.particles import Weighted, systematic

CHAIN = chain_from_betas(linear_betas(1000))
SHORT = CHAIN.shortened(timestep_subset(1000, "12"))
ONE = torch.ones(1, dtype=torch.float64)
GAUSSIAN = GaussianMixture(torch.zeros(1, 1).double(), torch.ones(1, 1, 1).double(), ONE, CHAIN)
UNGUIDED = Twist((), sigma_max=1e-9)
NOISY_SAMPLERS = {
    "ddpm": SamplerConfig(name="ddpm"),
    "ddim": SamplerConfig(name="ddim", eta=0.7),
    "dpmpp_2m_sde": SamplerConfig(name="dpmpp_2m_sde"),
}


def linear(slope: Callable[[Step], float]) -> Callable[[Tensor, Step], Tensor]:
    return lambda x_t, step: slope(step) * x_t.flatten(1).sum(dim=1)


def exact_twist(a: float) -> Callable[[Tensor, Step], Tensor]:
    """log E[exp(a x_0) | x_t] of N(0, 1): a martingale's logarithm."""

    def log_density(x_t: Tensor, step: Step) -> Tensor:
        alpha_bar = float(step.alpha_bar)
        return a * alpha_bar**0.5 * x_t.flatten(1).sum(dim=1) + 0.5 * a**2 * (1 - alpha_bar)

    return log_density


def sampled(
    twist: Twist, *, groups: int, count: int, config: SamplerConfig = NOISY_SAMPLERS["ddpm"],
    chain: DiffusionChain = SHORT, denoiser=GAUSSIAN.denoiser, size: int = 1, weight="twisted", on_step=None,
) -> Weighted:  # fmt: skip
    generator = torch.Generator().manual_seed(7)
    return make_particle_filter(config, count, weight)(
        denoiser, chain, draws(groups * count, size, 1, 1, seed=3), batch_noise(4), twist=twist,
        choices=lambda: torch.rand(groups, generator=generator, dtype=torch.float64),
        on_step=on_step,
    )  # fmt: skip


def variances(chain: DiffusionChain) -> list[float]:
    """Variance of ddpm's states for GAUSSIAN, of x_T first and of x_0 last."""
    var = [1.0]
    for k in reversed(range(len(chain))):
        step = chain.at(k, like=torch.empty(1, 1, 1, 1, dtype=torch.float64))
        towards_x0, towards_x_t = posterior_mean_weights(step)
        slope = towards_x0 * step.alpha_bar**0.5 + towards_x_t
        var.append(slope**2 * var[-1] + (math.exp(step.log_var_min) if k else 0.0))
    return var


def assert_estimates(log_w: Tensor, z: float) -> None:
    """The mean weight is Z within 4 of its standard errors, which are small."""
    w = log_w.exp()
    error = float(w.std()) / len(w) ** 0.5
    assert error < 0.1 * z
    assert abs(float(w.mean()) - z) < 4 * error


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_mean_weight_is_z_for_every_number_of_particles_and_any_twist_in_between(count):
    """The twist of the first timestep alone sets the target; others, here of random slopes, only propose."""
    others = 0.6 * torch.rand(12, generator=torch.Generator().manual_seed(0))
    slopes = dict(zip(SHORT.t.tolist(), others.tolist(), strict=True)) | {0.0: 0.8}
    weighted = sampled(Twist(((linear(lambda step: slopes[float(step.t[0])]), 1.0),)), groups=4000, count=count)
    assert_estimates(weighted.log_mean_weight, math.exp(0.5 * 0.8**2 * variances(SHORT)[-1]))


@pytest.mark.parametrize("name", NOISY_SAMPLERS)
def test_particles_of_every_noisy_sampler_are_weighed_to_the_tilted_law(name):
    """N(a v, v), v the variance of the sampler's unguided x_0, measured; bounds of 4 standard errors.

    Samples weighed by their groups' mean weight are exact for any number of particles. Two classifiers of slope 0.5 at
    scales 1 and 2 make a = 1.5; v is 0.74 to 1.06.
    """
    config, groups, count = replace(NOISY_SAMPLERS[name], steps=25), 4000, 4
    draw = partial(sampled, config=config, chain=config.levels(ChainConfig()))
    twist = Twist(((exact_twist(0.5), 1.0), (exact_twist(0.5), torch.full((groups * count,), 2.0).double())))
    v = float(draw(UNGUIDED, groups=20_000, count=1).x_0.var())
    weighted = draw(twist, groups=groups, count=count)
    x_0, w = weighted.x_0.flatten(), weighted.log_mean_weight.softmax(dim=0)
    mean, effective = float(w @ x_0), float(1 / w.square().sum())
    assert effective > 0.3 * groups
    assert abs(mean - 1.5 * v) < 4 * (v / effective) ** 0.5 + 4 * 1.5 * v * (2 / 20_000) ** 0.5
    assert abs(float(w @ (x_0 - mean) ** 2) / v - 1) < 4 * (2 / effective) ** 0.5


@pytest.mark.parametrize("interval", [{"sigma_max": 2.0}, {"sigma_min": 0.5}])
def test_an_interval_begins_and_ends_the_tilting(interval):
    """From sigma_max on nothing changes the target; below sigma_min, states tilted where it ends go on unguided."""
    twist = Twist(((linear(lambda step: 0.8), 1.0),), **interval)
    levels = [k for k in range(len(SHORT)) if twist.is_active(SHORT.at(k, like=torch.empty(1)))]
    assert 0 < len(levels) < len(SHORT)
    last = min(levels)  # the link from here leads to the last state that is weighed
    v = variances(SHORT)[len(SHORT) - last]
    assert_estimates(sampled(twist, groups=4000, count=3).log_mean_weight, math.exp(0.5 * 0.8**2 * v))


def test_the_feynman_kac_weight_of_an_exact_linear_twist_is_known():
    """Of a martingale exp V with s = 2: each link adds s (s - 1) / 2 S g^2, whatever the noise, after s V of x_T.

    As links shrink all particles weigh Z = exp(s^2 a^2 / 2), but for x_T's own slope, sqrt(alpha_bar) = 0.006; at 250
    links S, the posterior's variance, is short of the link's by 3%.
    """
    chain, s, a = CHAIN.shortened(timestep_subset(1000, "250")), 2.0, 0.5
    weighted = sampled(Twist(((exact_twist(a), s),), rises=False), groups=8, count=2, chain=chain, weight="feynman_kac")
    x_T, alpha_bar = draws(16, 1, 1, 1, seed=3).flatten(), float(chain.alpha_bar[-1])
    start = s * (a * alpha_bar**0.5 * x_T + 0.5 * a**2 * (1 - alpha_bar))
    expected = start.reshape(8, 2).logsumexp(dim=1) - math.log(2) + (1 - 1 / s) * weighted.nats.sum(dim=0)
    assert_close(weighted.log_mean_weight, expected)
    assert_close(float(expected.mean()), 0.5 * s**2 * a**2, atol=0.0, rtol=0.03)


def test_nats_of_a_linear_twist_are_the_sum_of_squared_slopes():
    """1/2 sum of S_k alpha_bar_k a^2 s^2 over all links but the last, which grows to KL = s^2 a^2 / 2 (Girsanov)."""
    meter, scale, a = NatsMeter(), 1.5, 0.7
    term = meter.metered(score_of(exact_twist(a), scale))
    ddpm(GAUSSIAN.denoiser, CHAIN, draws(3, 1, 1, 1), batch_noise(1), mean_shift=term, on_step=meter.on_step)
    steps = [CHAIN.at(k, like=torch.empty(1)) for k in range(1, 1000)]
    expected = sum(0.5 * scale**2 * a**2 * step.alpha_bar * math.exp(step.log_var_min) for step in steps)
    found = torch.stack(meter.by_level).sum(dim=0)
    assert len(meter.by_level) == 999
    assert_close(found, torch.full_like(found, expected), rtol=1e-6, atol=0)
    assert expected == pytest.approx(0.5 * scale**2 * a**2, rel=0.02)  # S is the posterior's variance


def test_a_link_that_is_taken_repeatedly_spends_its_nats_each_time():
    once, thrice = NatsMeter(), NatsMeter()
    for meter, sampler in ((once, ddpm), (thrice, partial(repaint, resample_steps=3))):
        term = meter.metered(score_of(exact_twist(0.7), 1.0))
        sampler(GAUSSIAN.denoiser, SHORT, draws(3, 1, 1, 1), batch_noise(1), mean_shift=term, on_step=meter.on_step)
    assert_close(torch.stack(thrice.by_level), 3 * torch.stack(once.by_level))


def test_particles_count_the_nats_that_a_guided_run_spends():
    mixture = three_blobs(CHAIN)
    meter, y = NatsMeter(), torch.ones(6, dtype=torch.int64)
    term = meter.metered(classifier_score(mixture.log_prob, y, 2.0))
    x_T = draws(6, 2, 1, 2, seed=3)
    alone = ddpm(mixture.denoiser, SHORT, x_T, batch_noise(4), mean_shift=term, on_step=meter.on_step)
    twist = Twist(((class_log_density(mixture.log_prob, y), 2.0),), rises=False)
    run = partial(make_particle_filter(NOISY_SAMPLERS["ddpm"], 1, "twisted"), mixture.denoiser, SHORT, x_T)
    weighted = run(batch_noise(4), twist=twist, choices=lambda: torch.zeros(6).double())
    assert_close(weighted.nats, torch.stack(meter.by_level))
    assert weighted.ess.eq(1).all()
    # One particle is guided alone, but for the last link, which the posterior's variance of 0 leaves unguided anyway.
    assert_close(weighted.x_0, alone)


def test_systematic_resampling_keeps_counts_within_one_of_their_expectation_and_the_mean_weight():
    log_w = 3 * draws(50, 8, seed=1)
    log_w[0] = 0.0  # all are effective: nothing is resampled
    u = torch.rand(50, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    rows, after = systematic(log_w, u)
    counts = torch.stack([(rows == row).sum() for row in range(400)]).reshape(50, 8)
    poor = (log_w.softmax(dim=1).square().sum(dim=1) * 8) > 2
    assert 5 < poor.sum() < 50
    assert not poor[0]
    assert ((counts - 8 * log_w.softmax(dim=1)).abs() < 1)[poor].all()
    assert (counts[~poor] == 1).all()
    assert torch.equal(after[~poor], log_w[~poor])
    assert_close(after.logsumexp(dim=1), log_w.logsumexp(dim=1))
    assert_close(after[poor], after[poor].mean(dim=1, keepdim=True).expand(-1, 8))


def test_a_particle_that_is_not_finite_is_not_dropped_in_silence():
    def broken(x_t: Tensor, step: Step) -> Estimate:
        estimate = GAUSSIAN.denoiser(x_t, step)
        at = torch.arange(len(x_t)) == 4  # the second particle of the second sample
        return Estimate(estimate.x0.masked_fill(at.reshape(-1, 1, 1, 1), math.nan), estimate.log_var)

    shown = list[Tensor]()
    twist = Twist(((linear(lambda step: 0.5), 1.0),), sigma_min=0.1)  # below, no weight would tell of it
    x_0 = sampled(twist, groups=3, count=3, denoiser=broken, on_step=lambda k, x, _: shown.append(x)).x_0
    for x in (x_0, *shown):
        assert x.isnan().flatten().tolist() == [False, True, False]


def test_a_particles_noise_depends_on_seed_sample_and_particle_alone_and_the_first_is_the_samples_own():
    both, like = SeededNoise.of_particles(5, [3, 9], 4), torch.empty(8, 1, 2, 2)
    noise = both(like)
    assert torch.equal(noise[4:], SeededNoise.of_particles(5, [9], 4)(like[4:]))
    assert torch.equal(noise[::4], SeededNoise(5, [3, 9])(like[::4]))
    assert torch.equal(noise[:2], SeededNoise.of_particles(5, [3], 2)(like[:2]))
    assert len({float(value) for value in noise[:, 0, 0, 0]}) == 8
    assert torch.equal(particle_choices(5, [3, 9]).uniform()[1:], particle_choices(5, [9]).uniform())


@pytest.mark.parametrize(
    "config",
    [SamplerConfig(name="ddim"), SamplerConfig(name="heun"), SamplerConfig(name="unipc")],
)
def test_links_without_a_density_to_weigh_by_are_refused(config):
    with pytest.raises(ValueError, match=rf"guidance.particles 4 weighs .* {config.name}.* take ddpm, dpmpp_2m_sde"):
        make_particle_filter(config, 4, "twisted")


def test_particles_guided_elsewhere_than_they_are_weighed_are_refused():
    with pytest.raises(
        ValueError, match="are guided at the state before each link; leave out sampler.gradient_at mean"
    ):
        make_particle_filter(SamplerConfig(name="ddpm", gradient_at="mean"), 4, "twisted")


def test_the_interval_of_a_twist_is_that_of_sigma():
    twist = Twist((), sigma_min=0.5, sigma_max=2.0)
    for k in range(len(SHORT)):
        assert twist.is_active(SHORT.at(k, like=torch.empty(1))) == (0.5 < sigma(float(SHORT.alpha_bar[k])) <= 2.0)
