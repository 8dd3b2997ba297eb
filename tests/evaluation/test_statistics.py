from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from guided_diffusion.evaluation.statistics import (
    GaussianAccumulator,
    RowAccumulator,
    gaussian,
    merged,
    moments,
    read_reference,
    write_reference,
)

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


def test_a_reference_file_has_the_published_layout_and_comes_back(features: torch.Tensor, tmp_path: Path) -> None:
    pooled, spatial = gaussian(moments(features)), gaussian(moments(features[:, :3]))
    images = np.zeros((2, 4, 4, 3), np.uint8)
    path = tmp_path / "reference.npz"
    write_reference(path, pooled=pooled, spatial=spatial, extractor="judge", extractor_sha256="ab", images=images)
    with np.load(path) as arrays:
        assert {"mu", "sigma", "mu_s", "sigma_s", "arr_0"} <= set(arrays)
        np.testing.assert_array_equal(arrays["sigma"], pooled.cov.numpy(), strict=True)
    found = read_reference(path)
    assert found is not None
    assert (found.extractor, found.extractor_sha256, found.has_images, found.pooled.count) == ("judge", "ab", True, 200)
    assert found.spatial is not None
    assert torch.equal(found.pooled.mean, pooled.mean)
    assert torch.equal(found.spatial.cov, spatial.cov)


def test_a_published_reference_without_spatial_statistics_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", mu=np.zeros(4, np.float32), sigma=np.eye(4))
    found = read_reference(tmp_path / "r.npz")
    assert found is not None
    assert (found.spatial, found.has_images, found.extractor_sha256, found.pooled.count) == (None, False, None, None)


def test_a_batch_of_images_is_no_reference(tmp_path: Path) -> None:
    np.savez(tmp_path / "batch.npz", arr_0=np.zeros((1, 2, 2, 3), np.uint8))
    assert read_reference(tmp_path / "batch.npz") is None


def test_a_reference_that_does_not_fit_together_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", mu=np.zeros(4), sigma=np.eye(3))
    with pytest.raises(ValueError, match=r"r\.npz is no reference file \(mu \(4,\) and sigma \(3, 3\) are not"):
        read_reference(tmp_path / "r.npz")
    (tmp_path / "r.npz").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"r\.npz is not a readable npz file"):
        read_reference(tmp_path / "r.npz")
