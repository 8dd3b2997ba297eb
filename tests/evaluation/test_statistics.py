import pytest
import torch
from torch.testing import assert_close

from guided_diffusion.evaluation.statistics import GaussianAccumulator, RowAccumulator, gaussian, merged, moments

# Rounding of float64 sums of a few hundred terms of size one.
ROUNDING = {"rtol": 1e-12, "atol": 1e-13}


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(200, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7) + 3


@pytest.mark.parametrize("batch_size", [1, 7, 64, 200])
def test_statistics_do_not_depend_on_the_batch_size(features: torch.Tensor, batch_size: int) -> None:
    accumulator = GaussianAccumulator(6)
    for batch in features.split(batch_size):
        accumulator.update(batch)
    found = accumulator.gaussian()
    assert found.count == 200
    assert found.mean.dtype == found.cov.dtype == torch.float64
    assert_close(found.mean, features.double().mean(dim=0), **ROUNDING)
    assert_close(found.cov, torch.cov(features.double().T), **ROUNDING)


def test_moments_merge_in_any_order(features: torch.Tensor) -> None:
    a, b, c = (moments(part) for part in features.split([5, 100, 95]))
    for one, other in ((merged(merged(a, b), c), moments(features)), (merged(c, merged(b, a)), moments(features))):
        assert_close(gaussian(one).mean, gaussian(other).mean, **ROUNDING)
        assert_close(gaussian(one).cov, gaussian(other).cov, **ROUNDING)


def test_an_empty_set_merges_without_a_trace(features: torch.Tensor) -> None:
    whole, nothing = moments(features), moments(features[:0])
    for union in (merged(whole, nothing), merged(nothing, whole), merged(merged(nothing, nothing), whole)):
        assert_close((union.count, union.mean, union.scatter), (whole.count, whole.mean, whole.scatter), rtol=0, atol=0)


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    # Sums of x and x x^T would leave the variance of 1 with an error of about 1e12 * 1e-16 * 1000.
    spread = torch.randn(1000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    accumulator = GaussianAccumulator(2)
    for batch in (spread + 1e6).split(50):
        accumulator.update(batch)
    assert_close(accumulator.gaussian().cov, torch.cov(spread.T), rtol=0, atol=1e-9)


def test_features_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite; its weights or its precision"):
        GaussianAccumulator(2).update(torch.tensor([[1.0, float("inf")]]))


def test_one_image_has_no_covariance() -> None:
    accumulator = GaussianAccumulator(2)
    accumulator.update(torch.ones(1, 2))
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        accumulator.gaussian()


def test_one_dimension_is_enough() -> None:
    accumulator = GaussianAccumulator(1)
    accumulator.update(torch.tensor([[1.0], [3.0]]))
    found = accumulator.gaussian()
    assert (found.mean.tolist(), found.cov.tolist()) == ([2], [[2]])


def test_rows_come_back_in_order() -> None:
    accumulator = RowAccumulator()
    for rows in torch.arange(10.0).reshape(5, 2).split(2):
        accumulator.update(rows)
    assert torch.equal(accumulator.compute(), torch.arange(10.0).reshape(5, 2))
