"""DDIM where its result is known: the probability flow of a Gaussian in closed form, and the law of its noise."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from oracles.mixture import assert_is_component, batch_noise, draws, three_blobs
from oracles.probability_flow import flowed
from torch.testing import assert_close

from guided_diffusion.diffusion.chain import DiffusionChain, eps_from_x0, q_sample
from guided_diffusion.diffusion.denoiser import NetworkDenoiser
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.diffusion.schedules import chain_from_betas, linear_betas, timestep_subset
from guided_diffusion.guidance import classifier_score, extrapolated, tilted
from guided_diffusion.samplers import ddim, ddim_reverse, ddpm

CHAIN = chain_from_betas(linear_betas(1000))
SHORT = CHAIN.shortened(timestep_subset(1000, "25"))
MIXTURE = three_blobs(CHAIN)
NUM_SAMPLES = 1000


def refused_noise(like: torch.Tensor) -> torch.Tensor:
    raise AssertionError("a deterministic sampler asked for noise")


def angular_chain(num_steps: int, last_angle: float) -> DiffusionChain:
    """alpha_bar = cos^2 of evenly spaced angles from 0 (x_0) to last_angle: finer steps approach one limit."""
    angles = last_angle * torch.arange(1, num_steps + 1, dtype=torch.float64) / num_steps
    return DiffusionChain(alpha_bar=angles.cos() ** 2, t=torch.arange(num_steps, dtype=torch.float64))


def test_ddim_converges_at_first_order_to_the_exact_probability_flow():
    x_T, y, last_angle = draws(6, 2, 1, 2, seed=3), torch.ones(6, dtype=torch.int64), math.acos(1e-2)
    exact = flowed(x_T.flatten(1), MIXTURE, 1, alpha_bar=math.cos(last_angle) ** 2, alpha_bar_end=1)
    errors = []
    for num_steps in (50, 100, 200, 400):
        chain = angular_chain(num_steps, last_angle)
        x_0 = ddim(MIXTURE.component_denoiser(y), chain, x_T, refused_noise).flatten(1)
        errors.append(float((x_0 - exact).abs().max()))
    # Halving the step halves the error; second-order terms are below 2% from 50 steps on.
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(2, rel=0.02)
    assert errors[-1] < 5e-3


def test_the_probability_flow_of_a_gaussian_maps_quantiles_to_quantiles():
    """The closed form itself: a standard deviation about the mean at x_T is one about the mean at x_0."""
    mean, covariance = MIXTURE.means[1], MIXTURE.covariances[1]
    for alpha_bar in (1e-4, 0.5):
        there = partial(flowed, mixture=MIXTURE, y=1, alpha_bar=alpha_bar, alpha_bar_end=1)
        matrix = there(torch.eye(4).double()) - there(torch.zeros(4).double())
        law = matrix.mT @ (alpha_bar * covariance + (1 - alpha_bar) * torch.eye(4).double()) @ matrix
        assert_close(law, covariance, rtol=1e-12, atol=1e-12)
        assert_close(there(alpha_bar**0.5 * mean), mean, rtol=1e-12, atol=1e-12)


def test_reversing_and_sampling_returns_to_x_0_at_first_order():
    """On the whole mixture. The chain ends ever closer to pure noise, since the reverse ends at alpha_bar 0 itself."""
    x_0 = draws(6, 2, 1, 2, seed=3)
    errors = []
    for num_steps in (100, 200, 400):
        chain = angular_chain(num_steps, math.pi / 2 * num_steps / (num_steps + 1))
        latent = ddim_reverse(MIXTURE.denoiser, chain, x_0)
        errors.append(float((ddim(MIXTURE.denoiser, chain, latent, refused_noise) - x_0).abs().max()))
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(2, rel=0.05)
    assert errors[-1] < 0.02


def test_1000_guided_steps_reproduce_the_component():
    """Finite steps bias the variances by less than 2% (30,000 samples), under half of a standard error here."""
    y = torch.ones(NUM_SAMPLES, dtype=torch.int64)
    guided = tilted(MIXTURE.denoiser, classifier_score(MIXTURE.log_prob, y, scale=1.0))
    x_0 = ddim(guided, CHAIN, draws(NUM_SAMPLES, 2, 1, 2, seed=11), refused_noise)
    assert_is_component(x_0, MIXTURE, y=1)


def test_classifier_guided_and_classifier_free_trajectories_are_one():
    """The identity of their denoisers carried through 25 steps at scale 3, where errors have room to grow."""
    y, x_T = torch.tensor([0, 1, 2]), draws(3, 2, 1, 2)
    by_classifier = tilted(MIXTURE.denoiser, classifier_score(MIXTURE.log_prob, y, scale=3.0))
    classifier_free = extrapolated(MIXTURE.component_denoiser(y), MIXTURE.denoiser, 3.0)
    ends = [ddim(denoiser, SHORT, x_T, refused_noise) for denoiser in (by_classifier, classifier_free)]
    assert_close(*ends, rtol=1e-9, atol=1e-9)


def test_eta_one_is_ancestral_sampling_with_the_posteriors_variance():
    x_T = draws(6, 2, 1, 2)
    by_ddim = ddim(MIXTURE.denoiser, SHORT, x_T, batch_noise(3), eta=1.0)
    assert_close(by_ddim, ddpm(MIXTURE.denoiser, SHORT, x_T, batch_noise(3)), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("k", [1, 12, 24])
def test_a_links_noise_is_eta_times_the_posteriors_and_keeps_the_marginal(k, eta):
    """For known x_0 the old and the new noise of x_s together have variance 1 - alpha_bar_prev (DDIM lemma 1)."""
    x0 = torch.full((1, 1, 1, 1), 0.3, dtype=torch.float64)
    denoiser = NetworkDenoiser(lambda x, t: x0, "x0", "small")
    step = SHORT.at(k, like=x0)

    def link(old: float, new: float) -> float:
        states = {}
        ddim(
            denoiser,
            SHORT.shortened(torch.arange(k + 1)),
            q_sample(x0, torch.full_like(x0, old), step),
            lambda like: torch.full_like(like, new),
            eta=eta,
            on_step=lambda index, x, estimate: states.update({index: float(x)}),
        )
        return states[k]

    signal = link(0.0, 0.0)
    from_old, from_new = link(1.0, 0.0) - signal, link(0.0, 1.0) - signal
    assert signal == pytest.approx(0.3 * step.alpha_bar_prev**0.5, rel=1e-12)
    assert from_new == pytest.approx(eta * math.exp(0.5 * step.log_var_min), rel=1e-9, abs=1e-12)
    assert from_old**2 + from_new**2 == pytest.approx(1 - step.alpha_bar_prev, rel=1e-9)


def test_without_noise_eps_is_kept_along_a_link():
    x_T, states = draws(3, 2, 1, 2), []
    ddim(MIXTURE.denoiser, SHORT, x_T, refused_noise, on_step=lambda k, x, e: states.append((k, x, e.x0)))
    before = x_T
    for k, x_s, x0 in states[:-1]:
        eps = eps_from_x0(before, x0, SHORT.at(k, like=before))
        # At the noisy end of a link x_0 weighs 6e-3, at its clean end eps 1e-2: two digits of 16.
        assert_close(eps_from_x0(x_s, x0, SHORT.at(k - 1, like=before)), eps, rtol=1e-11, atol=1e-11)
        before = x_s
    assert torch.equal(states[-1][1], states[-1][2])


def test_the_known_latent_of_x_0_is_found():
    """With x_0 known, eps is constant: the reverse from a state at the first level ends in exactly its eps."""
    x0, eps = draws(3, 2, 1, 2, seed=1), draws(3, 2, 1, 2, seed=2)
    denoiser = NetworkDenoiser(lambda x, t: x0, "x0", "small", clip=None)
    first = q_sample(x0, eps, SHORT.at(0, like=x0))
    assert_close(ddim_reverse(denoiser, SHORT, first), eps, rtol=1e-11, atol=1e-11)


def test_the_reverse_visits_the_levels_upwards():
    told = []
    end = ddim_reverse(MIXTURE.denoiser, SHORT, draws(3, 2, 1, 2), on_step=lambda k, x, e: told.append((k, x)))
    assert [k for k, _ in told] == list(range(25))
    assert torch.equal(told[-1][1], end)


def test_the_watcher_is_told_each_new_state_and_its_estimate():
    told = []
    x_0 = ddim(
        MIXTURE.denoiser, SHORT, draws(3, 2, 1, 2), refused_noise, on_step=lambda k, x, e: told.append((k, x, e.x0))
    )
    assert [k for k, _, _ in told] == list(reversed(range(25)))
    assert torch.equal(told[-1][1], x_0)
    assert torch.equal(told[-1][2], x_0)


@pytest.mark.parametrize(("eta", "expected"), [(0.0, 0), (0.5, 24), (1.0, 24)])
def test_noise_is_drawn_only_where_it_acts(eta, expected):
    drawn = []
    noise = batch_noise(0)
    ddim(MIXTURE.denoiser, SHORT, draws(3, 2, 1, 2), lambda like: drawn.append(1) or noise(like), eta=eta)
    assert len(drawn) == expected


@pytest.mark.parametrize("sampler", ["ddim", "ddim_reverse"])
def test_the_denoiser_is_called_once_a_link(sampler):
    calls = []

    def denoiser(x, step):
        calls.append(float(step.t[0]))
        return MIXTURE.denoiser(x, step)

    if sampler == "ddim":
        ddim(denoiser, SHORT, draws(3, 2, 1, 2), refused_noise)
        assert calls == SHORT.t.flip(0).tolist()
    else:
        ddim_reverse(denoiser, SHORT, draws(3, 2, 1, 2))
        assert calls == SHORT.t.tolist()


@pytest.mark.parametrize("eta", [-0.1, 1.5, float("nan")])
def test_eta_out_of_range_is_refused_before_anything_is_computed(eta):
    def denoiser(x, step):
        raise AssertionError("called")

    with pytest.raises(ValueError, match=f"between 0 and 1; got {eta}"):
        ddim(denoiser, SHORT, draws(3, 2, 1, 2), refused_noise, eta=eta)


def test_a_sample_does_not_depend_on_its_batch():
    """To the rounding of kernels that group a batch differently."""
    x_T = SeededNoise(0, range(5))(torch.empty(5, 2, 1, 2, dtype=torch.float64))
    together = ddim(MIXTURE.denoiser, SHORT, x_T, SeededNoise(1, range(5)), eta=0.5)
    alone = ddim(MIXTURE.denoiser, SHORT, x_T[3:4], SeededNoise(1, [3]), eta=0.5)
    assert_close(together[3:4], alone, rtol=1e-12, atol=1e-12)


def test_a_chain_may_start_in_pure_noise():
    """alpha_bar 0, where x_T is eps and only v or x0 can be predicted."""
    chain = chain_from_betas(linear_betas(20))
    assert chain.alpha_bar[-1] == 0
    point = torch.full((1, 1, 1, 2), 0.3, dtype=torch.float64)
    denoiser = NetworkDenoiser(lambda x, t: point.expand_as(x), "x0", "small")
    x_0 = ddim(denoiser, chain, draws(3, 1, 1, 2), batch_noise(0), eta=0.5)
    assert_close(x_0, point.expand_as(x_0), rtol=0, atol=1e-15)


def test_float32_images_stay_float32():
    denoiser = NetworkDenoiser(lambda x, t: x, "eps", "small")
    images = draws(3, 2, 4, 4, dtype=torch.float32)
    for end in (
        ddim(denoiser, SHORT, images, SeededNoise(0, range(3)), eta=0.5),
        ddim_reverse(denoiser, SHORT, images),
    ):
        assert end.dtype == torch.float32
        assert torch.isfinite(end).all()


def test_sampling_keeps_no_gradient_and_leaves_its_input_alone():
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    denoiser = NetworkDenoiser(lambda x, t: weight * x, "x0", "small")
    start = draws(3, 2, 1, 2)
    kept = start.clone()
    assert not ddim(denoiser, SHORT, start, refused_noise).requires_grad
    assert not ddim_reverse(denoiser, SHORT, start).requires_grad
    assert torch.equal(start, kept)
