"""Guidance on a mixture of Gaussians, where classifier, denoiser and conditional denoiser are known exactly."""

import math

import pytest
import torch
from oracles.counting import Counted
from oracles.mixture import batch_noise, draws, three_blobs
from torch.testing import assert_close

from guided_diffusion.diffusion.chain import DiffusionChain, sigma
from guided_diffusion.diffusion.denoiser import Estimate, NetworkDenoiser, transition
from guided_diffusion.diffusion.schedules import chain_from_betas, linear_betas, timestep_subset
from guided_diffusion.guidance import between, classifier_score, extrapolated, summed, tilted, within
from guided_diffusion.samplers import ddim, ddpm

CHAIN = chain_from_betas(linear_betas(1000))
SHORT = CHAIN.shortened(timestep_subset(1000, "25"))
MIXTURE = three_blobs(CHAIN)
LEVELS = [0, 1, 100, 500, 900, 999]
# The term is divided by sqrt(alpha_bar), down to 6e-3, and float64 keeps 16 digits: 1e-12 leaves two for the rest.
EXACT = {"rtol": 1e-12, "atol": 1e-12}
y = torch.tensor([0, 1, 2, 1, 0, 2])
x_t = draws(6, 2, 1, 2, seed=3)


@pytest.mark.parametrize("k", LEVELS)
def test_tilting_the_mixture_gives_the_component(k):
    step = CHAIN.at(k, like=x_t)
    guided = tilted(MIXTURE.denoiser, classifier_score(MIXTURE.log_prob, y, scale=1.0))
    assert_close(guided(x_t, step).x0, MIXTURE.component_mean(x_t, step, y), **EXACT)


@pytest.mark.parametrize("scale", [0.5, 2.0, 10.0])
@pytest.mark.parametrize("k", LEVELS)
def test_tilting_by_a_scale_is_extrapolating_by_it(k, scale):
    step = CHAIN.at(k, like=x_t)
    by_classifier = tilted(MIXTURE.denoiser, classifier_score(MIXTURE.log_prob, y, scale))
    classifier_free = extrapolated(MIXTURE.component_denoiser(y), MIXTURE.denoiser, scale)
    difference = by_classifier(x_t, step).x0 - classifier_free(x_t, step).x0
    assert difference.abs().max() < 1e-12 * max(1.0, scale)


def test_tilting_serves_one_step_per_sample():
    indices = torch.tensor(LEVELS)
    step = CHAIN.at(indices, like=x_t)
    guided = tilted(MIXTURE.denoiser, classifier_score(MIXTURE.log_prob, y, scale=1.0))
    assert_close(guided(x_t, step).x0, MIXTURE.component_mean(x_t, step, y), **EXACT)


@pytest.mark.parametrize("k", LEVELS)
def test_classifier_score_is_the_difference_of_scores(k):
    """grad log p(y | x_t) = grad log q(x_t | y) - grad log q(x_t), each from its denoiser by Tweedie's formula."""
    step = CHAIN.at(k, like=x_t)
    tweedie = step.alpha_bar**0.5 / (1 - step.alpha_bar)
    expected = tweedie * (MIXTURE.component_mean(x_t, step, y) - MIXTURE.denoiser(x_t, step).x0)
    # At the clean end the two denoisers are divided by 1 - alpha_bar = 1e-4.
    actual = classifier_score(MIXTURE.log_prob, y, scale=1.0)(x_t, step)
    assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("k", [1, 100, 500, 999])
def test_mean_shift_and_eps_correction_differ_by_the_root_of_alpha(k):
    """With Sigma = beta the tilted mean moves by beta / sqrt(alpha_t) * term, the shifted one by beta * term."""
    step = CHAIN.at(k, like=x_t)
    alpha = step.alpha_bar / step.alpha_bar_prev
    term = classifier_score(MIXTURE.log_prob, y, scale=1.0)

    def denoiser(x_t, step):
        return Estimate(x0=MIXTURE.denoiser(x_t, step).x0, log_var=step.log_var_max)

    mean, var = transition(denoiser(x_t, step), x_t, step)
    tilted_mean, _ = transition(tilted(denoiser, term)(x_t, step), x_t, step)
    eps_correction, mean_shift = tilted_mean - mean, var * term(x_t, step)
    # The corrections are small against the means that are subtracted, hence 1e-13 absolute.
    assert_close(mean_shift, alpha**0.5 * eps_correction, rtol=1e-10, atol=1e-13)
    assert mean_shift.abs().max() > 1e-8


def test_tilting_keeps_the_variance():
    guided = tilted(MIXTURE.denoiser, classifier_score(MIXTURE.log_prob, y, scale=3.0))
    for k in (0, 500):
        step = CHAIN.at(k, like=x_t)
        plain = MIXTURE.denoiser(x_t, step)
        assert (guided(x_t, step).log_var, guided(x_t, step).var) == (plain.log_var, plain.var)


def test_the_tilted_estimate_is_not_clipped_again():
    denoiser = NetworkDenoiser(lambda x, t: 9 * x.sign(), "x0", "small", clip=1.0)
    step = CHAIN.at(500, like=x_t)
    guided = tilted(denoiser, lambda x, step: torch.full_like(x, 100.0))(x_t, step)
    shift = 100 * (1 - step.alpha_bar) / step.alpha_bar**0.5
    assert_close(guided.x0, x_t.sign() + shift)


@pytest.mark.parametrize("sampler", [ddpm, ddim], ids=["ddpm", "ddim"])
def test_scale_zero_equals_unguided_bit_for_bit(sampler):
    x_T, term = draws(6, 2, 1, 2), classifier_score(MIXTURE.log_prob, y, scale=0.0)
    plain = sampler(MIXTURE.denoiser, SHORT, x_T, batch_noise(7))
    assert torch.equal(sampler(tilted(MIXTURE.denoiser, term), SHORT, x_T, batch_noise(7)), plain)
    if sampler is ddpm:
        assert torch.equal(ddpm(MIXTURE.denoiser, SHORT, x_T, batch_noise(7), mean_shift=term), plain)


def test_scale_zero_does_not_call_the_classifier():
    classifier = Counted(MIXTURE.log_prob)
    classifier_score(classifier, y, scale=0.0)(x_t, SHORT.at(3, like=x_t))
    assert classifier.calls == 0


def test_classifier_score_needs_no_surrounding_gradient_and_leaves_none():
    x_in = x_t.clone().requires_grad_(True)
    term = classifier_score(MIXTURE.log_prob, y, scale=2.0)
    with torch.no_grad():
        inside = term(x_in, CHAIN.at(300, like=x_t))
    outside = term(x_in, CHAIN.at(300, like=x_t))
    assert torch.equal(inside, outside)
    assert not inside.requires_grad
    assert not outside.requires_grad
    assert x_in.grad is None


def test_classifier_score_of_a_sample_does_not_depend_on_the_others():
    step = CHAIN.at(300, like=x_t)
    together = classifier_score(MIXTURE.log_prob, y, scale=2.0)(x_t, step)
    alone = classifier_score(MIXTURE.log_prob, y[:1], scale=2.0)(x_t[:1], CHAIN.at(300, like=x_t[:1]))
    assert_close(together[:1], alone, rtol=1e-14, atol=1e-14)


def test_the_sum_of_two_classifiers_is_the_score_of_their_product():
    """log p_1 + log p_2 as one classifier, against two terms summed; and both scales count."""

    def second(x, t):
        return (x.flatten(1)[:, :3] * 2).log_softmax(dim=1)

    def product(x, t):
        return 1.5 * MIXTURE.log_prob(x, t) + 0.5 * second(x, t)

    step = CHAIN.at(300, like=x_t)
    terms = summed(classifier_score(MIXTURE.log_prob, y, scale=1.5), classifier_score(second, y, scale=0.5))
    assert_close(terms(x_t, step), classifier_score(product, y, scale=1.0)(x_t, step), **EXACT)


def test_one_term_summed_is_itself():
    term = classifier_score(MIXTURE.log_prob, y, scale=1.5)
    step = CHAIN.at(300, like=x_t)
    assert torch.equal(summed(term)(x_t, step), term(x_t, step))


def test_no_term_summed_is_refused():
    with pytest.raises(ValueError, match="at least one score term; leave guidance out"):
        summed()


def test_extrapolating_by_one_gives_main_and_by_zero_the_reference():
    step = CHAIN.at(300, like=x_t)
    main, reference = MIXTURE.component_denoiser(y), MIXTURE.denoiser
    assert_close(extrapolated(main, reference, 1.0)(x_t, step).x0, main(x_t, step).x0, **EXACT)
    assert torch.equal(extrapolated(main, reference, 0.0)(x_t, step).x0, reference(x_t, step).x0)


def test_extrapolating_keeps_the_variance_of_main():
    def main(x, step):
        return Estimate(x0=x, log_var=-1.0, var=0.25)

    def reference(x, step):
        return Estimate(x0=-x, log_var=-2.0)

    mixed = extrapolated(main, reference, 3.0)(x_t, CHAIN.at(300, like=x_t))
    assert (mixed.log_var, mixed.var) == (-1.0, 0.25)
    assert_close(mixed.x0, 5 * x_t)


def inside(chain: DiffusionChain, low: float, high: float) -> int:
    return sum(low < sigma(float(alpha_bar)) <= high for alpha_bar in chain.alpha_bar)


def test_outside_its_interval_a_term_is_zero_and_the_classifier_is_not_called():
    classifier = Counted(MIXTURE.log_prob)
    term = within(classifier_score(classifier, y, scale=1.0), 0.3, 5.0)
    for k in range(len(SHORT)):
        step, before = SHORT.at(k, like=x_t), classifier.calls
        value = term(x_t, step)
        if 0.3 < sigma(step.alpha_bar) <= 5.0:
            assert torch.equal(value, classifier_score(MIXTURE.log_prob, y, scale=1.0)(x_t, step))
            assert classifier.calls == before + 1
        else:
            assert torch.equal(value, torch.zeros_like(x_t))
            assert classifier.calls == before
    assert 0 < classifier.calls == inside(SHORT, 0.3, 5.0) < len(SHORT)


def test_a_sampler_calls_the_classifier_only_within_the_interval():
    classifier = Counted(MIXTURE.log_prob)
    term = within(classifier_score(classifier, y, scale=1.0), 0.3, 5.0)
    ddim(tilted(MIXTURE.denoiser, term), SHORT, draws(6, 2, 1, 2), batch_noise(0))
    ddpm(MIXTURE.denoiser, SHORT, draws(6, 2, 1, 2), batch_noise(0), mean_shift=term)
    assert classifier.calls == 2 * inside(SHORT, 0.3, 5.0)


def test_between_calls_exactly_one_denoiser_a_step():
    guided, plain = Counted(MIXTURE.component_denoiser(y)), Counted(MIXTURE.denoiser)
    chosen = between(guided, plain, 0.3, 5.0)
    for k in range(len(SHORT)):
        step = SHORT.at(k, like=x_t)
        expected = guided.function if 0.3 < sigma(step.alpha_bar) <= 5.0 else plain.function
        assert torch.equal(chosen(x_t, step).x0, expected(x_t, step).x0)
    assert guided.calls == inside(SHORT, 0.3, 5.0)
    assert guided.calls + plain.calls == len(SHORT)


def test_an_interval_excludes_its_lower_end_and_includes_its_upper_end():
    middle = SHORT.at(12, like=x_t)
    exact = sigma(middle.alpha_bar)

    def one(x, step):
        return torch.ones_like(x)

    assert within(one, exact, math.inf)(x_t, middle).sum() == 0
    assert within(one, 0.0, exact)(x_t, middle).sum() == x_t.numel()
    assert within(one, math.nextafter(exact, 0), math.inf)(x_t, middle).sum() == x_t.numel()
    assert within(one, 0.0, math.nextafter(exact, 0))(x_t, middle).sum() == 0


def test_the_whole_range_of_sigma_is_no_limit():
    term = classifier_score(MIXTURE.log_prob, y, scale=1.0)
    x_T = draws(6, 2, 1, 2)
    limited = ddim(tilted(MIXTURE.denoiser, within(term, 0.0, math.inf)), SHORT, x_T, batch_noise(0))
    assert torch.equal(limited, ddim(tilted(MIXTURE.denoiser, term), SHORT, x_T, batch_noise(0)))


def test_an_interval_refuses_a_step_per_sample():
    step = SHORT.at(torch.arange(6), like=x_t)
    term = classifier_score(MIXTURE.log_prob, y, scale=1.0)
    with pytest.raises(ValueError, match="the whole batch at one step; call chain.at with one index"):
        within(term, 0.3, 5.0)(x_t, step)
    with pytest.raises(ValueError, match="the whole batch at one step"):
        between(MIXTURE.denoiser, MIXTURE.denoiser, 0.3, 5.0)(x_t, step)


@pytest.mark.parametrize("k", [12, torch.tensor([0, 12, 24, 3, 4, 5])], ids=["one step", "one per sample"])
def test_float32_images_stay_float32(k):
    images = x_t.float()
    step = SHORT.at(k, like=images)
    denoiser = NetworkDenoiser(lambda x, t: x, "eps", "small")
    term = classifier_score(lambda x, t: x.flatten(1).log_softmax(dim=1), y, scale=2.0)
    outputs = [
        term(images, step),
        summed(term, term)(images, step),
        tilted(denoiser, term)(images, step).x0,
        extrapolated(denoiser, denoiser, 2.0)(images, step).x0,
    ]
    assert {output.dtype for output in outputs} == {torch.float32}


def test_guidance_where_nothing_is_left_of_the_signal_is_refused():
    chain = chain_from_betas(linear_betas(20))
    assert chain.alpha_bar[-1] == 0
    denoiser = NetworkDenoiser(lambda x, t: x, "v", "small")
    guided = tilted(denoiser, lambda x, step: torch.zeros_like(x))
    with pytest.raises(ValueError, match="alpha_bar 0 holds no signal"):
        guided(x_t, chain.at(19, like=x_t))
