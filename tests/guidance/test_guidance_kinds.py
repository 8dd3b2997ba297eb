"""Guidance by samples' own scales, by entropy, and by classifiers of clean images, against closed forms."""

import math

import pytest
import torch
from oracles.mixture import GaussianMixture, batch_noise, draws, estimate, three_blobs
from torch.testing import assert_close

from guided_diffusion.diffusion.denoiser import Estimate, NetworkDenoiser, transition
from guided_diffusion.diffusion.schedules import chain_from_betas, cosine_betas, linear_betas, timestep_subset
from guided_diffusion.guidance import (
    classifier_score,
    clean_log_density,
    entropy_scaled_score,
    guided_at_estimate,
    guided_through,
    joint_log_prob,
    tilted,
)
from guided_diffusion.guidance.classifier import ENTROPY_FLOOR
from guided_diffusion.samplers import SamplerConfig, ddim, ddpm, make_sampler

CHAIN = chain_from_betas(linear_betas(1000))
SHORT = CHAIN.shortened(timestep_subset(1000, "25"))
MIXTURE = three_blobs(CHAIN)
EXACT = {"rtol": 1e-12, "atol": 1e-12}
y = torch.tensor([0, 1, 2, 1, 0, 2])
x_t = draws(6, 2, 1, 2, seed=3)
SCALES = torch.tensor([0.0, 0.5, 1.0, 2.0, 4.0, 10.0], dtype=torch.float64)
MIDDLE = CHAIN.at(300, like=x_t)

A = draws(3, 4, seed=9)
"""One direction a class: of a classifier whose log-probabilities are linear in x_0."""
GAUSSIAN = GaussianMixture(MIXTURE.means[:1], MIXTURE.covariances[:1], torch.ones(1).double(), CHAIN)


def linear(x_0):
    return x_0.flatten(1) @ A.mT


class Watched:
    """A denoiser that keeps what it was asked."""

    def __init__(self, denoiser) -> None:
        self.denoiser, self.asked = denoiser, []

    def __call__(self, x, step):
        self.asked.append(x)
        return self.denoiser(x, step)


def one(i):
    return x_t[i : i + 1], CHAIN.at(300, like=x_t[:1])


@pytest.mark.parametrize("score", [classifier_score, entropy_scaled_score])
def test_scales_of_samples_are_those_of_separate_runs(score):
    together = score(MIXTURE.log_prob, y, SCALES)(x_t, MIDDLE)
    for i, scale in enumerate(SCALES.tolist()):
        alone = score(MIXTURE.log_prob, y[i : i + 1], scale)(*one(i))
        assert_close(together[i : i + 1], alone, rtol=1e-13, atol=1e-14)
    assert float(together[0].abs().max()) == 0


@pytest.mark.parametrize("guided", [guided_through, guided_at_estimate])
def test_scales_of_samples_under_a_clean_classifier_are_those_of_separate_runs(guided):
    together = guided(MIXTURE.denoiser, clean_log_density(linear, y), SCALES)(x_t, MIDDLE).x0
    for i, scale in enumerate(SCALES.tolist()):
        alone = guided(MIXTURE.denoiser, clean_log_density(linear, y[i : i + 1]), scale)(*one(i)).x0
        assert_close(together[i : i + 1], alone, rtol=1e-13, atol=1e-14)


def test_float32_images_take_scales_of_any_precision_and_stay_float32():
    images, step = x_t.float(), CHAIN.at(300, like=x_t.float())
    denoiser = NetworkDenoiser(lambda x, t: x, "eps", "small")

    def log_prob(x, t=None):
        return x.flatten(1).log_softmax(dim=1)

    for scale in (2.0, SCALES):
        outputs = [
            classifier_score(log_prob, y, scale)(images, step),
            entropy_scaled_score(log_prob, y, scale)(images, step),
            guided_through(denoiser, clean_log_density(log_prob, y), scale)(images, step).x0,
            guided_at_estimate(denoiser, clean_log_density(log_prob, y), scale)(images, step).x0,
        ]
        assert {output.dtype for output in outputs} == {torch.float32}


def test_the_entropy_scale_is_s_over_the_share_of_the_largest_entropy():
    term, plain = entropy_scaled_score(MIXTURE.log_prob, y, 1.5), classifier_score(MIXTURE.log_prob, y, 1.0)
    scaled, gradient = term(x_t, MIDDLE), plain(x_t, MIDDLE)
    for i, row in enumerate(MIXTURE.log_prob(x_t, MIDDLE.t).exp().tolist()):
        share = -sum(p * math.log(p) for p in row) / math.log(3)
        assert share > ENTROPY_FLOOR
        assert_close(scaled[i], 1.5 / share * gradient[i], **EXACT)


def test_where_the_classifier_knows_nothing_the_entropy_scale_is_the_scale():
    """Uniform at 0, with a gradient all the same."""

    def log_prob(x, t):
        return x.flatten(1)[:, :3].log_softmax(dim=1)

    nowhere = torch.zeros_like(x_t)
    by_entropy, plain = (score(log_prob, y, 2.0)(nowhere, MIDDLE) for score in (entropy_scaled_score, classifier_score))
    assert_close(by_entropy, plain, **EXACT)
    assert float(plain.abs().min(dim=1).values.max()) > 0.1


def test_a_classifier_that_is_certain_of_another_class_is_followed_a_hundredfold_at_most():
    def log_prob(x, t):
        far = torch.tensor([900.0, 0.0, 0.0], dtype=torch.float64)
        return (x.flatten(1)[:, :3] + far).log_softmax(dim=1)

    others = torch.full((6,), 1)
    by_entropy = entropy_scaled_score(log_prob, others, 2.0)(x_t, MIDDLE)
    plain = classifier_score(log_prob, others, 2.0)(x_t, MIDDLE)
    assert_close(by_entropy, plain / ENTROPY_FLOOR, **EXACT)
    assert torch.isfinite(by_entropy).all()


def test_the_entropy_comes_from_the_same_call_of_the_classifier():
    calls = []
    entropy_scaled_score(lambda x, t: calls.append(1) or MIXTURE.log_prob(x, t), y, 2.0)(x_t, MIDDLE)
    assert calls == [1]
    entropy_scaled_score(lambda x, t: calls.append(1), y, 0.0)(x_t, MIDDLE)
    assert calls == [1]


def test_the_entropy_of_a_single_class_is_refused():
    with pytest.raises(ValueError, match="a classifier of one class is always certain"):
        entropy_scaled_score(lambda x, t: x.flatten(1)[:, :1], torch.zeros(6).long(), 1.0)(x_t, MIDDLE)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("k", [1, 100, 500, 900])
def test_guiding_a_gaussian_through_its_denoiser_by_a_linear_classifier_is_exact(k, scale):
    """N(mu, C) exp(s a x_0) is N(mu + s C a, C): the guided denoiser must be the one of that Gaussian."""
    mean, covariance = GAUSSIAN.means[0], GAUSSIAN.covariances[0]
    moved = GaussianMixture(
        mean + scale * A @ covariance, covariance.expand(3, 4, 4), torch.ones(3).double() / 3, CHAIN
    )
    step = CHAIN.at(k, like=x_t)
    guided = guided_through(GAUSSIAN.denoiser, clean_log_density(linear, y), scale)(x_t, step)
    # (1 - alpha_bar) / sqrt(alpha_bar) times the denoiser's slope: cancellation leaves ten digits.
    assert_close(guided.x0, moved.component_mean(x_t, step, y), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("k", [0, 300, 999])
def test_guiding_at_the_estimate_is_exact_for_gaussian_data_of_unit_variance(k):
    """N(mu, I) exp(s a x_0) is N(mu + s a, I), also where no signal is left; EluCD's move is 1 / sqrt(alpha_bar) more,
    150 times at k = 999 of this chain and 20,000 times at the end of a cosine one."""
    unit = torch.eye(4, dtype=torch.float64)
    data = GaussianMixture(GAUSSIAN.means, unit[None], torch.ones(1).double(), CHAIN)
    moved = GaussianMixture(GAUSSIAN.means[0] + 2 * A, unit.expand(3, 4, 4), torch.ones(3).double() / 3, CHAIN)
    step = CHAIN.at(k, like=x_t)
    guided = guided_at_estimate(data.denoiser, clean_log_density(linear, y), 2.0)(x_t, step)
    assert_close(guided.x0, moved.component_mean(x_t, step, y), **EXACT)


def test_guiding_at_the_estimate_moves_it_by_the_scaled_gradient_at_most():
    for chain in (CHAIN, chain_from_betas(cosine_betas(1000)), chain_from_betas(linear_betas(20))):
        for k in (0, len(chain) - 1):
            step = chain.at(k, like=x_t)
            identity, log_density = lambda x, step: Estimate(x0=x, log_var=0.0), clean_log_density(linear, y)
            guided = guided_at_estimate(identity, log_density, 2.0)(x_t, step)
            assert ((guided.x0 - x_t).abs() <= 2 * A[y].reshape(x_t.shape).abs() + 1e-12).all()


def test_the_classifier_is_asked_about_the_estimate():
    asked = []
    log_density = clean_log_density(lambda x: asked.append(x.detach()) or linear(x), y)
    guided_at_estimate(MIXTURE.denoiser, log_density, 2.0)(x_t, MIDDLE)
    guided_through(MIXTURE.denoiser, log_density, 2.0)(x_t, MIDDLE)
    for x_0 in asked:
        assert torch.equal(x_0, MIXTURE.denoiser(x_t, MIDDLE).x0)


@pytest.mark.parametrize(("guided", "differentiates"), [(guided_through, True), (guided_at_estimate, False)])
def test_a_clean_classifier_costs_one_call_of_the_denoiser(guided, differentiates):
    watched = Watched(MIXTURE.denoiser)
    with torch.no_grad():
        guided(watched, clean_log_density(linear, y), 2.0)(x_t, MIDDLE)
    assert [x.requires_grad for x in watched.asked] == [differentiates]


@pytest.mark.parametrize("guided", [guided_through, guided_at_estimate])
def test_scale_zero_leaves_the_estimate_and_does_not_call_the_clean_classifier(guided):
    calls = []
    result = guided(MIXTURE.denoiser, clean_log_density(lambda x: calls.append(1), y), 0.0)(x_t, MIDDLE)
    assert torch.equal(result.x0, MIXTURE.denoiser(x_t, MIDDLE).x0)
    assert calls == []


def test_guiding_through_the_denoiser_keeps_no_graph_and_keeps_the_variance():
    def denoiser(x, step):
        return Estimate(x0=x.tanh(), log_var=x.sin(), mean=x)

    guided = guided_through(denoiser, clean_log_density(linear, y), 2.0)(x_t.clone().requires_grad_(True), MIDDLE)
    assert not guided.x0.requires_grad
    assert not guided.log_var.requires_grad
    assert torch.equal(guided.log_var, x_t.sin())
    assert guided.mean is None


def test_where_the_estimate_was_clipped_no_gradient_goes_through():
    denoiser = NetworkDenoiser(lambda x, t: 9 * x.sign() + 0 * x, "x0", "small", clip=1.0)
    assert torch.equal(guided_through(denoiser, clean_log_density(linear, y), 5.0)(x_t, MIDDLE).x0, x_t.sign())


def test_guidance_nests_in_any_order_where_the_terms_do_not_depend_on_x_0():
    score = classifier_score(MIXTURE.log_prob, y, 1.5)
    inside = guided_at_estimate(tilted(MIXTURE.denoiser, score), clean_log_density(linear, y), 0.5)
    outside = tilted(guided_at_estimate(MIXTURE.denoiser, clean_log_density(linear, y), 0.5), score)
    assert_close(inside(x_t, MIDDLE).x0, outside(x_t, MIDDLE).x0, **EXACT)


def test_sampling_a_gaussian_guided_through_its_denoiser_samples_the_tilted_one():
    """DDIM of 1,000 links, deterministic, against the same of the Gaussian that it should be."""
    x_T, labels = draws(3, 2, 1, 2, seed=4), torch.tensor([0, 1, 2])
    mean, covariance = GAUSSIAN.means[0], GAUSSIAN.covariances[0]
    moved = GaussianMixture(mean + A @ covariance, covariance.expand(3, 4, 4), torch.ones(3).double() / 3, CHAIN)
    guided = ddim(guided_through(GAUSSIAN.denoiser, clean_log_density(linear, labels), 1.0), SHORT, x_T, batch_noise(0))
    assert_close(guided, ddim(moved.component_denoiser(labels), SHORT, x_T, batch_noise(0)), rtol=1e-9, atol=1e-9)


def test_tempered_logits():
    logits = draws(5, 3)
    assert_close(joint_log_prob(logits, joint=1.0, marginal=1.0), logits.log_softmax(dim=1), **EXACT)
    expected = [[f - math.log(sum(math.exp(0.5 * g) for g in row)) for f in row] for row in logits.tolist()]
    assert_close(joint_log_prob(logits), torch.tensor(expected, dtype=torch.float64), **EXACT)


def test_at_the_mean_a_shift_is_asked_about_the_next_state_and_its_timestep():
    asked, means = [], []

    def denoiser(x, step):
        result = estimate(MIXTURE.denoiser(x, step).x0, step)
        means.append(transition(result, x, step)[0])
        return result

    def term(x, step):
        asked.append((x, float(step.t[0])))
        return torch.zeros_like(x)

    ddpm(denoiser, SHORT, draws(6, 2, 1, 2), batch_noise(0), mean_shift=term, gradient_at="mean")
    assert all(torch.equal(x, mean) for (x, _), mean in zip(asked, means, strict=True))
    assert [t for _, t in asked] == [*reversed(SHORT.t[:-1].tolist()), float(SHORT.t[0])]


def test_at_the_mean_the_shift_is_the_variance_times_the_term_there():
    two, states = CHAIN.shortened(torch.tensor([300, 600])), {}
    ddpm(
        lambda x, step: Estimate(x0=0.5 * x, log_var=step.log_var_max),
        two,
        x_t,
        lambda like: torch.zeros_like(like),
        mean_shift=lambda x, step: x * step.t.reshape(-1, 1, 1, 1),
        gradient_at="mean",
        on_step=lambda k, x, estimate: states.update({k: x}),
    )
    step = two.at(1, like=x_t)
    mean, var = transition(Estimate(x0=0.5 * x_t, log_var=step.log_var_max), x_t, step)
    assert_close(states[1], mean + var * 300 * mean, **EXACT)


def test_the_sampler_made_for_gradients_at_the_mean_takes_them_there():
    score, x_T, made = classifier_score(MIXTURE.log_prob, y, 2.0), draws(6, 2, 1, 2), {}
    for at in ("x_t", "mean"):
        sampler = make_sampler(SamplerConfig(name="ddpm", gradient_at=at))
        made[at] = sampler(MIXTURE.denoiser, SHORT, x_T, batch_noise(1), guidance=score)
        expected = ddpm(MIXTURE.denoiser, SHORT, x_T, batch_noise(1), mean_shift=score, gradient_at=at)
        assert torch.equal(made[at], expected)
    assert not torch.equal(made["x_t"], made["mean"])
    # Both are the paper's first-order step: they differ by less than the guidance itself moves the samples.
    plain = ddpm(MIXTURE.denoiser, SHORT, x_T, batch_noise(1))
    assert (made["x_t"] - made["mean"]).norm() < (made["x_t"] - plain).norm()


@pytest.mark.parametrize("name", ["ddim", "heun"])
def test_gradients_at_the_mean_are_refused_where_no_mean_is_shifted(name):
    with pytest.raises(ValueError, match=f"gradient_at mean was given to {name}; it is for ddpm: leave it out"):
        SamplerConfig(name=name, gradient_at="mean")
