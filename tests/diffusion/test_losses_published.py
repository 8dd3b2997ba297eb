"""Losses and their gradients, and the noising they are made of, against the numbers of the published code.

Both evaluate in float32, so 1e-5 relative throughout; where terms of order 1 cancel, their rounding is added to that.
"""

import pytest
import torch
from oracles import golden
from oracles.stub_network import CASES, PREDICTIONS, VARIANCES, StubNetwork
from torch.testing import assert_close

from guided_diffusion.diffusion.chain import eps_from_x0, posterior_mean, q_sample
from guided_diffusion.diffusion.denoiser import Prediction, Variance, has_learned_variance
from guided_diffusion.diffusion.losses import (
    Noised,
    approximate_normal_cdf,
    bound_term,
    grey_level_log_likelihood,
    hybrid_loss,
    prior_bound,
    simple_loss,
    vlb_loss,
)

KL_ROUNDING = 5e-7
"""Bits: a divergence below 1e-2 is what cancels of terms of order 1 in float32, whose unit is 1.2e-7."""


def strategies(mean: str, var: str) -> dict[str, Prediction | Variance]:
    return {"prediction": PREDICTIONS[mean], "variance": VARIANCES[var]}


def noised_of(published: StubNetwork) -> Noised:
    return Noised(published.x0, published.eps, published.x_t, published.step)


def loss_of(published: StubNetwork, kind: str, mean: str, var: str, output: torch.Tensor) -> torch.Tensor:
    """A published loss as a composition of ours."""
    chosen, num_steps, noised = strategies(mean, var), len(published.chain), noised_of(published)
    if kind in ("kl", "rescaled_kl"):
        scale = num_steps if kind == "rescaled_kl" else 1
        return vlb_loss(output, noised, **chosen, num_steps=scale)
    if not has_learned_variance(VARIANCES[var]):
        return simple_loss(output, noised, **chosen)
    vlb_weight = 1 / num_steps if kind == "mse" else 0.001
    return hybrid_loss(output, noised, **chosen, num_steps=num_steps, vlb_weight=vlb_weight)


@pytest.fixture(scope="module", params="ABC")
def published(request) -> StubNetwork:
    return StubNetwork(request.param)


def test_approximate_cdf_equals_the_published_one():
    stored = golden.arrays("ops")
    assert_close(approximate_normal_cdf(stored["cdf_x"]), stored["cdf_out"], rtol=0, atol=1e-6)


def test_grey_level_likelihood_equals_the_published_one():
    """A tiny probability is cancellation noise in float32, so its logarithm is compared above -10 only."""
    stored = golden.arrays("ops")
    log_p = grey_level_log_likelihood(stored["dll_x"], stored["dll_means"], stored["dll_log_scales"])
    assert_close(log_p.exp(), stored["dll_out"].exp(), rtol=0, atol=1e-6)
    likely = stored["dll_out"] > -10
    assert likely.any()
    assert_close(log_p[likely], stored["dll_out"][likely], rtol=1e-3, atol=0)


def test_noised_images_and_posteriors_equal_the_published_ones(published):
    """float32 products of float64 coefficients: a unit or two in the last place of the largest."""
    stored, step = published.arrays, published.step
    golden.assert_near(q_sample(published.x0, published.eps, step), stored["x_t"], 1e-6)
    golden.assert_near(posterior_mean(published.x_t, published.x0, step), stored["q_posterior/mean"], 1e-6)
    log_var = step.log_var_min.expand_as(published.x_t)
    golden.assert_near(log_var, stored["q_posterior/log_variance"], 1e-6)
    var = torch.where(step.alpha_bar_prev == 1, 0.0, log_var.exp())
    expected = stored["q_posterior/variance"]
    assert_close(golden.like(var.float(), expected), expected, rtol=1e-6, atol=0)
    mean = q_sample(published.x0, torch.zeros_like(published.x0), step)
    golden.assert_near(mean, stored["q_mean_variance/mean"], 1e-6)
    var, expected = (1 - step.alpha_bar).expand_as(mean).float(), stored["q_mean_variance/variance"]
    assert_close(golden.like(var, expected), expected, rtol=1e-6, atol=0)


def test_eps_found_from_x0_equals_the_published_one(published):
    """Each row is divided by its own sqrt(1 - alpha_bar), so rows are compared each on its own scale."""
    eps = eps_from_x0(published.x_t, published.x0, published.step)
    for row in range(len(eps)):
        golden.assert_near(eps[row], published.arrays["eps_from_xstart"][row], 1e-4)


def test_prior_bound_equals_the_published_one(published):
    """Its terms of order 1 cancel to 1e-5 in float32, so the published numbers themselves are good to 1e-7 absolute."""
    actual = prior_bound(published.x0.double(), float(published.chain.alpha_bar[-1]))
    assert_close(actual.float(), published.arrays["prior_bpd"], rtol=1e-5, atol=2e-7)


@pytest.mark.parametrize("kind", ["mse", "rescaled_mse", "kl", "rescaled_kl"])
@pytest.mark.parametrize(("mean", "var"), CASES)
def test_losses_equal_the_published_ones(published, mean, var, kind):
    loss = loss_of(published, kind, mean, var, published.output(var))
    steps = len(published.chain) if kind == "rescaled_kl" else 1
    atol = 0 if kind.endswith("mse") else KL_ROUNDING * steps
    assert_close(loss, published.arrays[f"loss/{kind}/{mean}/{var}/loss"], rtol=1e-5, atol=atol)


@pytest.mark.parametrize(("mean", "var"), CASES)
def test_parts_of_the_hybrid_loss_equal_the_published_ones(published, mean, var):
    chosen = strategies(mean, var)
    output = published.output(var)
    simple = simple_loss(output, noised_of(published), **chosen)
    assert_close(simple, published.arrays[f"loss/mse/{mean}/{var}/mse"], rtol=1e-5, atol=0)
    if has_learned_variance(VARIANCES[var]):
        for kind, scale in (("mse", 1.0), ("rescaled_mse", len(published.chain) / 1000)):
            vlb = vlb_loss(output, noised_of(published), **chosen, num_steps=1) * scale
            assert_close(vlb, published.arrays[f"loss/{kind}/{mean}/{var}/vb"], rtol=1e-5, atol=KL_ROUNDING)


@pytest.mark.parametrize(("mean", "var"), CASES)
def test_clipped_bound_terms_equal_the_published_ones(published, mean, var):
    estimate = published.denoiser(mean, var, clip=1.0)(published.x_t, published.step)
    bound = bound_term(estimate, published.x0, published.x_t, published.step)
    assert_close(bound, published.arrays[f"vb_clip1/{mean}/{var}/output"], rtol=1e-5, atol=KL_ROUNDING)


@pytest.mark.parametrize("kind", ["mse", "rescaled_kl"])
@pytest.mark.parametrize("var", ["learned", "learned_range"])
@pytest.mark.parametrize("mean", ["epsilon", "x_start"])
def test_gradients_equal_the_published_ones(published, mean, var, kind):
    """The gradient that reaches the mean through the bound is stopped in `mse` alone."""
    output = published.output(var).clone().requires_grad_(True)
    (actual,) = torch.autograd.grad(loss_of(published, kind, mean, var, output).sum(), output)
    for half, name in ((slice(0, 3), "prediction"), (slice(3, 6), "variance")):
        golden.assert_near(actual[:, half], published.arrays[f"grad/{kind}/{mean}/{var}/{name}"], 1e-5)
