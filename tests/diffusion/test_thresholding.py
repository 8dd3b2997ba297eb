"""Clipping of the estimate of x_0: static, dynamic (2205.11487 section 2.3), none."""

import pytest
import torch
from oracles.mixture import draws
from torch.testing import assert_close

from guided_diffusion.diffusion.denoiser import Estimate, NetworkDenoiser, Threshold, bounded, clipped
from guided_diffusion.diffusion.schedules import chain_from_betas, linear_betas
from guided_diffusion.guidance import extrapolated

STEP = chain_from_betas(linear_betas(1000)).at(500, like=torch.empty(2, 1, 1, 5))


def test_a_sample_beyond_the_range_is_clamped_to_its_quantile_and_divided_by_it():
    """|x_0| is 0, 1, 2, 3, 4: its quantile at 3/4 is 3."""
    x0 = torch.tensor([0.0, -1.0, 2.0, -3.0, 4.0]).reshape(1, 1, 1, 5)
    assert_close(clipped(x0, Threshold(0.75)), torch.tensor([0, -1 / 3, 2 / 3, -1, 1]).reshape(1, 1, 1, 5))


def test_between_two_values_the_quantile_is_interpolated():
    x0 = torch.tensor([0.0, 2.0, 4.0]).reshape(1, 1, 1, 3)
    assert_close(clipped(x0, Threshold(0.75)), torch.tensor([0.0, 2 / 3, 1.0]).reshape(1, 1, 1, 3))


def test_a_sample_whose_quantile_is_within_the_range_is_clipped_statically():
    """The quantile counts as 1 at least: an image of low contrast is not stretched."""
    x0 = torch.tensor([0.1, -0.2, 0.3, 0.4, 5.0]).reshape(1, 1, 1, 5)
    assert torch.equal(clipped(x0, Threshold(0.5)), x0.clamp(-1, 1))


def test_each_sample_has_its_own_quantile():
    x0 = torch.stack([3 * draws(3, 4, 4, seed=i) for i in range(3)]) * torch.tensor([0.1, 1, 10]).reshape(3, 1, 1, 1)
    together = clipped(x0, Threshold(0.995))
    for i in range(3):
        assert torch.equal(together[i : i + 1], clipped(x0[i : i + 1], Threshold(0.995)))
    assert float(together.abs().max()) == 1


def test_the_whole_of_a_sample_scales_it_by_its_largest_value():
    x0 = 3 * draws(2, 3, 4, 4)
    assert_close(clipped(x0, Threshold(1.0)), x0 / x0.abs().amax(dim=(1, 2, 3), keepdim=True))


@pytest.mark.parametrize(("clip", "bound"), [(None, None), (1.0, 1.0), (0.5, 0.5), (Threshold(0.9), 1.0)])
def test_a_networks_estimate_is_clipped_as_asked_and_its_dtype_kept(clip, bound):
    x_t = 3 * draws(2, 1, 1, 5, dtype=torch.float32)
    estimate = NetworkDenoiser(lambda x, t: x, "x0", "small", clip)(x_t, STEP)
    assert float(estimate.x0.abs().max()) == (float(x_t.abs().max()) if bound is None else bound)
    assert estimate.x0.dtype == torch.float32


@pytest.mark.parametrize(("clip", "bound"), [(1.0, 1.0), (0.5, 0.5), (Threshold(0.9), 1.0)])
def test_a_bounded_denoiser_is_clipped_after_what_it_is_made_of(clip, bound):
    x_t = draws(2, 1, 1, 5)
    plain, weaker = (NetworkDenoiser(lambda x, t, c=c: c * x, "x0", "small", clip=None) for c in (2.0, 1.0))
    guided = extrapolated(plain, weaker, 5.0)
    x0 = bounded(guided, clip)(x_t, STEP).x0
    assert torch.equal(x0, clipped(guided(x_t, STEP).x0, clip))
    assert float(x0.abs().max()) == bound


def test_a_bounded_denoiser_keeps_its_variance_and_its_mean():
    x_t = draws(2, 1, 1, 5)
    estimate = bounded(lambda x, step: Estimate(x0=9 * x, log_var=x, mean=7 * x, var=0.0), 1.0)(x_t, STEP)
    assert (estimate.log_var is x_t, estimate.var) == (True, 0.0)
    assert torch.equal(estimate.mean, 7 * x_t)


@pytest.mark.parametrize("quantile", [0.0, -0.5, 1.01, 99.5, float("nan")])
def test_a_threshold_that_is_no_share_is_refused(quantile):
    with pytest.raises(ValueError, match=f"a share of a sample's values, above 0 and at most 1; got {quantile}"):
        Threshold(quantile)
