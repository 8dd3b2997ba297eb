"""Extrapolation and bootstrap of the Fréchet distance, against distributions whose distance is known, by simulation."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from guided_diffusion.evaluation.metrics.confidence import (
    bootstrap_frechet_distance,
    class_groups,
    extrapolated_frechet_distance,
    mixed,
    weighted_gaussian,
)
from guided_diffusion.evaluation.metrics.frechet import frechet_distance
from guided_diffusion.evaluation.statistics import Gaussian, gaussian, moments

FLOAT64 = torch.float64
SCALE = torch.tensor([1.0, 1.5, 0.5, 1.2], dtype=FLOAT64)
SHIFT = torch.tensor([0.3, 0.0, 0.2, 0.0], dtype=FLOAT64)
STANDARD = Gaussian(torch.zeros(4, dtype=FLOAT64), torch.eye(4, dtype=FLOAT64))
TRUE_DISTANCE = float(SHIFT.square().sum() + (SCALE - 1).square().sum())


def samples(count: int, *, seed: int) -> Tensor:
    """Of the Gaussian with mean SHIFT and standard deviations SCALE: (count, 4)."""
    return SHIFT + SCALE * torch.randn(count, 4, dtype=FLOAT64, generator=torch.Generator().manual_seed(seed))


def distance(features: Tensor, real: Gaussian = STANDARD) -> float:
    found = gaussian(moments(features))
    return frechet_distance(found.mean, found.cov, real.mean, real.cov)


def test_extrapolation_has_no_bias_where_the_distance_has() -> None:
    sets = [samples(60, seed=seed) for seed in range(100)]
    plain = np.array([distance(features) for features in sets])
    found = np.array([extrapolated_frechet_distance(features, STANDARD, points=8).distance for features in sets])
    standard_error = found.std() / len(found) ** 0.5
    assert abs(found.mean() - TRUE_DISTANCE) < 3 * standard_error
    assert plain.mean() - TRUE_DISTANCE > 5 * plain.std() / len(plain) ** 0.5


def test_the_intercept_is_that_of_the_least_squares_line_over_one_over_n() -> None:
    features = samples(200, seed=0)
    found = extrapolated_frechet_distance(features, STANDARD, points=5)
    assert found.sizes == (20, 65, 110, 155, 200)
    assert found.distances[-1] == pytest.approx(distance(features), rel=1e-12)
    design = np.stack([np.ones(5), 1 / np.array(found.sizes)], axis=1)
    solution, squares, _, _ = np.linalg.lstsq(design, np.array(found.distances))
    assert found.distance == pytest.approx(solution[0], rel=1e-12)
    variance = squares[0] / (5 - 2) * np.linalg.inv(design.T @ design)[0, 0]
    assert found.standard_error == pytest.approx(variance**0.5, rel=1e-10)


def test_the_smallest_subset_has_two_samples_for_each_dimension_and_two_more() -> None:
    assert extrapolated_frechet_distance(samples(20, seed=0), STANDARD, points=3).sizes == (10, 15, 20)


def test_too_few_samples_for_an_extrapolation_are_refused() -> None:
    with pytest.raises(
        ValueError, match="needs at least 20 generated images, four for each of the 4 features and four more, got 19"
    ):
        extrapolated_frechet_distance(samples(19, seed=0), STANDARD)
    with pytest.raises(ValueError, match="at least 3 points, got 2"):
        extrapolated_frechet_distance(samples(20, seed=0), STANDARD, points=2)


def test_the_standard_error_is_the_spread_of_independent_sets_and_intervals_hold_their_average() -> None:
    count, num_sets = 200, 40
    plain = np.array([distance(samples(count, seed=1000 + seed)) for seed in range(600)])
    found = [
        bootstrap_frechet_distance(samples(count, seed=seed), STANDARD, resamples=50, confidence=0.9, seed=seed)
        for seed in range(num_sets)
    ]
    errors = np.array([interval.standard_error for interval in found])
    assert errors.mean() == pytest.approx(plain.std(), rel=0.1)
    inside = sum(interval.low < plain.mean() < interval.high for interval in found)
    assert inside / num_sets == pytest.approx(0.9, abs=0.1)  # two standard deviations of 40 draws


def test_an_interval_is_about_the_root_of_the_sets_own_distance_although_resampled_sets_are_further() -> None:
    features = samples(30, seed=3)
    found = bootstrap_frechet_distance(features, STANDARD, resamples=400, confidence=0.5)
    roots, own = np.sqrt(found.distances), distance(features) ** 0.5
    shift = roots.mean() - own
    assert shift > 3 * roots.std() / 400**0.5
    assert found.low**0.5 + shift == pytest.approx(np.quantile(roots, 0.25), rel=1e-12)
    assert found.high**0.5 + shift == pytest.approx(np.quantile(roots, 0.75), rel=1e-12)
    assert found.standard_error == pytest.approx(2 * own * roots.std(ddof=1), rel=1e-12)


def test_the_interval_of_a_good_model_is_no_wider_than_its_spread_and_stays_above_zero() -> None:
    """Quantiles of (resampled - mean of resampled) reached below 0 for 7 % of such sets, and were 1.9 times as wide."""

    def drawn(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(40, 8, generator=generator, dtype=torch.float64)

    real = Gaussian(torch.zeros(8).double(), torch.eye(8).double())
    own = [gaussian(moments(drawn(seed))) for seed in range(200)]
    plain = np.array([frechet_distance(one.mean, one.cov, real.mean, real.cov) for one in own])
    found = [bootstrap_frechet_distance(drawn(seed), real, resamples=60, seed=seed) for seed in range(30)]
    assert min(interval.low for interval in found) > 0.2 * plain.mean()
    width = np.mean([interval.high - interval.low for interval in found])
    assert 1 < width / (2 * 1.96 * plain.std()) < 1.45
    assert sum(interval.low < plain.mean() < interval.high for interval in found) >= 27


def test_a_set_at_no_distance_has_an_interval_from_zero() -> None:
    features = samples(30, seed=3)
    found = bootstrap_frechet_distance(features, gaussian(moments(features)), resamples=20)
    assert found.low == 0 < found.high


def test_seeds_decide_and_global_randomness_is_left_alone() -> None:
    features, calls = samples(50, seed=0), []
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, again, other = (
        bootstrap_frechet_distance(features, STANDARD, resamples=5, seed=seed, on_resample=lambda: calls.append(1))
        for seed in (0, 0, 1)
    )
    assert first == again != other
    assert len(calls) == 15
    first, again, other = (extrapolated_frechet_distance(features, STANDARD, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


@pytest.mark.parametrize(("resamples", "confidence"), [(1, 0.95), (10, 1.0), (10, 0.0)])
def test_intervals_of_nothing_are_refused(resamples: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="an interval needs 2 resamplings and 0 < confidence < 1, got"):
        bootstrap_frechet_distance(samples(9, seed=0), STANDARD, resamples=resamples, confidence=confidence)


def test_weighted_statistics_are_those_of_repeated_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guided_diffusion.evaluation.metrics.confidence.BLOCK_ROWS", 7)
    # Far from zero, as sums of squares would not survive.
    features = samples(40, seed=0) + 1e5
    times = torch.arange(40) % 4
    mean, cov = weighted_gaussian(features, times)
    expected = gaussian(moments(features.repeat_interleave(times, dim=0)))
    assert_close(mean, expected.mean, rtol=1e-15, atol=0)
    assert_close(cov, expected.cov, rtol=1e-9, atol=1e-10)


def in_turn(count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Samples of two distant classes in fixed equal numbers, and their classes."""
    classes = torch.arange(count) % 2
    return samples(count, seed=seed) + 10.0 * classes[:, None], classes


def test_classes_in_fixed_numbers_stay_so_in_subsets_and_resampled_sets() -> None:
    many, _ = in_turn(20_000, seed=0)
    real = gaussian(moments(many))
    features, classes = in_turn(400, seed=1)
    line = extrapolated_frechet_distance(features, real, classes=classes)
    chance = extrapolated_frechet_distance(features, real)
    # The truth is 0. Unequal halves move the mean by far more than a class's spread; the whole set has equal ones.
    assert abs(line.distance) < 0.05
    assert abs(chance.distance) > 10 * abs(line.distance)
    spread = np.std([distance(in_turn(400, seed=seed)[0], real) for seed in range(2, 42)], ddof=1)
    interval = bootstrap_frechet_distance(features, real, resamples=40, classes=classes)
    assert 0.6 * spread < interval.standard_error < 2.5 * spread
    at_random = bootstrap_frechet_distance(features, real, resamples=40)
    assert at_random.high - at_random.low > 30 * spread


def test_few_samples_of_a_class_are_drawn_again_without_regard_to_classes() -> None:
    features = samples(200, seed=0)
    real = gaussian(moments(samples(2000, seed=1)))
    plain = bootstrap_frechet_distance(features, real, resamples=5)
    assert bootstrap_frechet_distance(features, real, resamples=5, classes=torch.arange(200)) == plain
    assert bootstrap_frechet_distance(features, real, resamples=5, classes=torch.arange(200) % 10) != plain


def test_every_beginning_of_a_mixture_has_the_classes_in_proportion() -> None:
    classes = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    order = mixed(class_groups(100, classes), np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(100))
    for size in range(1, 101):
        counts = torch.bincount(classes[order[:size]], minlength=3)
        assert (counts - size * torch.tensor([0.6, 0.3, 0.1])).abs().max() <= 2


def test_classes_of_other_samples_are_refused() -> None:
    features, _ = in_turn(400, seed=1)
    with pytest.raises(ValueError, match="expected a class for each of 400 features"):
        bootstrap_frechet_distance(features, gaussian(moments(features)), resamples=2, classes=torch.zeros(3))
