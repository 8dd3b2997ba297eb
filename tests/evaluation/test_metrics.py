"""Fréchet distance and Inception Score: closed forms, properties, golden numbers, torch-fidelity."""

import numpy as np
import pytest
import torch
from oracles.golden import arrays, like, sidecar
from torch import Tensor
from torch.testing import assert_close

from guided_diffusion.evaluation.metrics.frechet import frechet_distance, regular_factor
from guided_diffusion.evaluation.metrics.inception_score import inception_score
from guided_diffusion.evaluation.statistics import Gaussian, gaussian, moments

FLOAT64 = torch.float64


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return arrays("evaluator")


@pytest.fixture(scope="module")
def scalars() -> dict[str, float]:
    return sidecar("evaluator")["scalars"]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=FLOAT64, generator=torch.Generator().manual_seed(seed))


def random_cov(size: int, *, rank: int, seed: int = 0) -> Tensor:
    factor = randn(size, rank, seed=seed)
    return factor @ factor.T


def distance(first: Gaussian, second: Gaussian) -> float:
    return frechet_distance(first.mean, first.cov, second.mean, second.cov)


def test_commuting_gaussians_are_apart_by_means_and_standard_deviations() -> None:
    basis = torch.linalg.qr(randn(12, 12)).Q
    sigma_1, sigma_2 = randn(12, seed=1).abs(), randn(12, seed=2).abs()
    mean_1, mean_2 = randn(12, seed=3), randn(12, seed=4)
    found = frechet_distance(mean_1, basis * sigma_1**2 @ basis.T, mean_2, basis * sigma_2**2 @ basis.T)
    expected = (mean_1 - mean_2).square().sum() + (sigma_1 - sigma_2).square().sum()
    assert found == pytest.approx(float(expected), rel=1e-12)


def test_pushing_a_gaussian_through_an_optimal_map_costs_the_maps_displacement() -> None:
    # x -> M x with M symmetric positive is the optimal transport from N(0, C) to N(0, M C M): E|x - M x|^2.
    cov, push = random_cov(10, rank=14), random_cov(10, rank=14, seed=1) / 14
    displacement = torch.eye(10, dtype=FLOAT64) - push
    expected = float((displacement @ cov @ displacement).trace())
    zero = torch.zeros(10, dtype=FLOAT64)
    assert frechet_distance(zero, cov, zero, push @ cov @ push) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize(("rank_1", "rank_2"), [(3, 5), (5, 3), (4, 4), (3, 20), (20, 3), (0, 3), (0, 0)])
def test_singular_gaussians_in_one_basis_keep_the_closed_form(rank_1: int, rank_2: int) -> None:
    basis = torch.linalg.qr(randn(20, 20)).Q
    sigma_1, sigma_2 = randn(20, seed=1).abs(), randn(20, seed=2).abs()
    sigma_1[rank_1:], sigma_2[rank_2:] = 0, 0
    mean = torch.zeros(20, dtype=FLOAT64)
    found = frechet_distance(mean, basis * sigma_1**2 @ basis.T, mean, basis * sigma_2**2 @ basis.T)
    # The square root of an eigenvalue error of 1e-16 is 1e-8, the most that singular directions may cost.
    assert found == pytest.approx(float((sigma_1 - sigma_2).square().sum()), abs=2e-8)


@pytest.mark.parametrize("least", [1e-6, 1e-8, 1e-9, 1e-10, 1e-12])
def test_variances_of_any_spread_keep_the_closed_form(least: float) -> None:
    # By eigenvalues of the product, as was done once down to a ratio of 1e-12 of a covariance's pivots, the last four
    # were too small by 2e-6 to 7e-6 of the distance.
    basis = torch.linalg.qr(randn(400, 400)).Q
    sigma = torch.full((400,), least**0.5, dtype=FLOAT64)
    sigma[:5] = 1
    mean = torch.zeros(400, dtype=FLOAT64)
    found = frechet_distance(mean, basis * sigma**2 @ basis.T, mean, basis * (1.2 * sigma) ** 2 @ basis.T)
    # Of 1e-6, eigenvalues of the product are right to 1e-4, and 395 roots of 1e-6 to 2e-8 together.
    assert found == pytest.approx(float((0.2 * sigma).square().sum()), rel=1e-7)


def test_as_many_images_as_dimensions_and_a_few_more_make_a_regular_covariance() -> None:
    features = gaussian(moments(randn(2060, 2048)))
    assert regular_factor(features.cov) is not None


def test_gaussians_in_orthogonal_subspaces_are_apart_by_their_variances() -> None:
    cov_1, cov_2 = torch.zeros(8, 8, dtype=FLOAT64), torch.zeros(8, 8, dtype=FLOAT64)
    cov_1[:4, :4], cov_2[4:, 4:] = random_cov(4, rank=6), random_cov(4, rank=2, seed=1)
    zero = torch.zeros(8, dtype=FLOAT64)
    expected = float(cov_1.trace() + cov_2.trace())
    assert frechet_distance(zero, cov_1, zero, cov_2) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("rank", [5, 30, 80])
def test_a_set_is_at_distance_zero_from_itself_and_distance_is_symmetric(rank: int) -> None:
    first = Gaussian(randn(30), random_cov(30, rank=rank))
    second = Gaussian(randn(30, seed=1), random_cov(30, rank=40, seed=2))
    assert distance(first, first) == pytest.approx(0, abs=1e-9)
    assert distance(first, second) == pytest.approx(distance(second, first), rel=1e-9)


def test_frechet_distances_are_the_published_evaluators(golden: dict[str, Tensor], scalars: dict[str, float]) -> None:
    for features, name in (("pool", "fid"), ("spatial", "sfid")):
        mean_1, mean_2 = golden[f"ref_{features}_mu"], golden[f"sample_{features}_mu"]
        if features == "pool":
            cov_1, cov_2 = (gaussian(moments(golden[f"{side}_pool"])).cov for side in ("ref", "sample"))
        else:
            cov_1, cov_2 = golden["ref_spatial_sigma"], golden["sample_spatial_sigma"]
        found = frechet_distance(mean_1, cov_1, mean_2, cov_2)
        # The published evaluator squares float32 means in float32. That is its whole distance from the exact number.
        difference = mean_1.numpy() - mean_2.numpy()
        rounding = float(difference.dot(difference)) - float((mean_1.double() - mean_2.double()).square().sum())
        assert abs(rounding) < 2e-9
        assert found + rounding == pytest.approx(scalars[name], abs=1e-12)
        assert found == pytest.approx(scalars[f"info_{name}_by_eigenvalues"], abs=1e-12)


def test_statistics_are_the_published_evaluators(golden: dict[str, Tensor]) -> None:
    for name in ("ref_pool", "sample_pool"):
        found = gaussian(moments(golden[name]))
        # Theirs are float32 sums of up to 200: 300 roundings of 8e-6 each, divided by 300 rows, add up to about 4e-7.
        assert_close(found.mean.float(), golden[f"{name}_mu"], atol=2e-6, rtol=0)
        expected = golden[f"{name}_sigma"]
        assert_close(like(found.cov, expected), expected, atol=1e-14, rtol=1e-11)


def test_the_golden_rank_deficient_distance_holds(golden: dict[str, Tensor], scalars: dict[str, float]) -> None:
    first, second = (gaussian(moments(golden[name][:40])) for name in ("ref_pool", "sample_pool"))
    # The matrix square root behind the golden number takes roots of eigenvalues that are rounded zeros, as is the case
    # with the sum of roots of eigenvalues beside it: the two are 1.6e-8 apart.
    assert distance(first, second) == pytest.approx(scalars["fid_rank_deficient_first_40_rows"], abs=5e-8)
    assert distance(first, second) == pytest.approx(scalars["info_rank_deficient_by_eigenvalues"], abs=5e-8)


@pytest.mark.parametrize(("count_1", "count_2"), [(15, 25), (40, 25), (25, 200)])
def test_sets_smaller_than_their_dimension_are_as_far_apart_as_their_own_factors_say(
    count_1: int, count_2: int
) -> None:
    # A covariance is X^T X of the centred features X, scaled: the trace of the root is the sum of singular values of
    # X_1 X_2^T, without any covariance.
    first, second = randn(count_1, 30), 1.5 * randn(count_2, 30, seed=1) + 0.1
    x_1, x_2 = ((x - x.mean(dim=0)) / (len(x) - 1) ** 0.5 for x in (first, second))
    spread = x_1.square().sum() + x_2.square().sum() - 2 * torch.linalg.svdvals(x_1 @ x_2.T).sum()
    expected = float((first.mean(dim=0) - second.mean(dim=0)).square().sum() + spread)
    assert distance(gaussian(moments(first)), gaussian(moments(second))) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("mean", "cov", "message"),
    [
        (torch.zeros(3), torch.eye(4), r"expected a mean \(D,\) and a covariance"),
        (torch.zeros(4), torch.eye(4) * float("nan"), "must be finite"),
        (torch.zeros(4), torch.eye(4) + torch.eye(4).roll(1, 0), "must be symmetric"),
        (torch.zeros(4), torch.diag(torch.tensor([1.0, 1.0, 1.0, -1.0])), "must not have negative eigenvalues"),
        (torch.zeros(4), torch.eye(4) - 0.5, "must not have negative eigenvalues"),  # nothing of the trace is left over
        (torch.zeros(5), torch.eye(5), "features of 5 and 4 dimensions cannot be compared"),
    ],
)
def test_what_is_not_a_gaussian_is_refused(mean: Tensor, cov: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frechet_distance(mean, cov, torch.zeros(4), torch.eye(4))


def test_certain_predictions_spread_over_c_classes_score_c() -> None:
    assert inception_score(torch.eye(7).repeat(3, 1)) == (pytest.approx(7, rel=1e-12), 0)


def test_predictions_that_do_not_depend_on_the_image_score_one() -> None:
    same = randn(10).softmax(dim=0).expand(50, -1)
    assert inception_score(same)[0] == pytest.approx(1, rel=1e-12)


def test_two_classes_of_known_confusion_score_their_mutual_information() -> None:
    rows = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=FLOAT64).repeat(10, 1)
    information = 0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5)
    assert inception_score(rows)[0] == pytest.approx(np.exp(information), rel=1e-12)


def test_splits_are_consecutive_rows_of_the_given_size_and_count_the_same() -> None:
    rows = torch.cat([torch.eye(4).repeat(2, 1), torch.eye(4)[:1].repeat(3, 1)])
    assert inception_score(rows, split_size=8) == (pytest.approx((4 + 1) / 2), pytest.approx((4 - 1) / 2))


@pytest.mark.parametrize("split_size", [5000, 100, 125, 7])
def test_inception_scores_are_the_published_evaluators(golden, scalars, split_size: int) -> None:
    # The golden scores were computed in float32, whose unit is 1.2e-7.
    expected = pytest.approx(scalars[f"inception_score_split{split_size}"], rel=2e-7)
    assert inception_score(golden["preds"], split_size=split_size)[0] == expected


def test_logits_are_refused_as_probabilities() -> None:
    with pytest.raises(ValueError, match=r"must sum to one, got .*; pass a softmax, not logits"):
        inception_score(randn(10, 4))
    with pytest.raises(ValueError, match="must be a non-empty matrix"):
        inception_score(torch.zeros(0, 4))


def test_torch_fidelity_agrees_on_the_same_features() -> None:
    fid = pytest.importorskip("torch_fidelity.metric_fid")
    isc = pytest.importorskip("torch_fidelity.metric_isc")
    real, generated, logits = randn(400, 24), 1.2 * randn(300, 24, seed=1) + 0.1, randn(300, 11, seed=2)
    theirs = fid.fid_statistics_to_metric(*(fid.fid_features_to_statistics(x) for x in (generated, real)), False)
    ours = distance(gaussian(moments(generated)), gaussian(moments(real)))
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-11)
    scores = isc.isc_features_to_metric(logits, splits=3, shuffle=False)
    expected = (scores["inception_score_mean"], scores["inception_score_std"])
    assert inception_score(logits.softmax(dim=1), split_size=100) == pytest.approx(expected, rel=1e-12)
