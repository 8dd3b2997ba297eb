"""Calibration against closed forms and torchmetrics."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from classifiers.calibration import (
    SCALE_LIMIT,
    accuracy,
    calibrating_scale,
    calibration_error,
    kl_to_uniform,
    log_likelihood,
    mean_confidence,
    normalized_entropy,
)

HONEST = torch.tensor([0.5, 0.25, 0.25]).log().expand(4, 3), torch.tensor([0, 0, 1, 2])
"""Each class as often as it is predicted."""


def guesses(count: int = 500, classes: int = 10) -> tuple[Tensor, Tensor]:
    """Predictions with some truth in them."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(count, classes, generator=generator, dtype=torch.float64)
    y = torch.where(torch.rand(count, generator=generator) < 0.5, logits.argmax(dim=1), torch.arange(count) % classes)
    return F.log_softmax(logits, dim=1), y


def two_classes(log_odds: float, *, right: int, wrong: int) -> tuple[Tensor, Tensor]:
    """The same log-odds in favour of class 0 for every image, `right` of which are of class 0."""
    log_p = F.log_softmax(torch.tensor([log_odds, 0.0], dtype=torch.float64), dim=0)
    return log_p.expand(right + wrong, 2), torch.tensor([0] * right + [1] * wrong)


def test_averages_are_those_computed_by_hand():
    log_p, y = HONEST
    assert accuracy(log_p, y) == 0.5
    assert log_likelihood(log_p, y) == pytest.approx((2 * math.log(0.5) + 2 * math.log(0.25)) / 4)
    assert mean_confidence(log_p) == pytest.approx(0.5)
    assert normalized_entropy(log_p) == pytest.approx(1.5 * math.log(2) / math.log(3))


def test_knowing_nothing_has_entropy_one_and_the_log_likelihood_of_chance():
    log_p = torch.full((6, 5), -math.log(5))
    assert normalized_entropy(log_p) == pytest.approx(1)
    assert log_likelihood(log_p, torch.arange(6) % 5) == pytest.approx(-math.log(5))


def test_being_right_as_often_as_said_has_no_calibration_error():
    assert calibration_error(*HONEST) == pytest.approx(0, abs=1e-7)


def test_calibration_error_is_the_one_computed_by_hand():
    # In bins of a fifth: two in (0.6, 0.8], gap |1/2 - 0.7|; two in (0.8, 1.0], gap |1 - 0.95|.
    confidence = torch.tensor([0.65, 0.75, 0.9, 1.0], dtype=torch.float64)
    log_p = torch.stack([confidence, 1 - confidence], dim=1).log()
    assert calibration_error(log_p, torch.tensor([0, 1, 0, 0]), bins=5) == pytest.approx(0.5 * 0.2 + 0.5 * 0.05)


def test_errors_of_both_signs_in_one_bin_cancel_and_in_two_do_not():
    confidence = torch.tensor([0.72, 0.78], dtype=torch.float64)
    log_p = torch.stack([confidence, 1 - confidence], dim=1).log()
    assert calibration_error(log_p, torch.tensor([1, 0]), bins=5) == pytest.approx(abs(0.75 - 0.5))
    assert calibration_error(log_p, torch.tensor([1, 0]), bins=4) == pytest.approx(0.5 * 0.72 + 0.5 * 0.22)


def test_calibration_error_is_that_of_torchmetrics_but_at_confidence_one():
    log_p, y = guesses()
    theirs = multiclass_calibration_error(log_p.exp(), y, num_classes=10, n_bins=15, norm="l1")
    assert calibration_error(log_p, y) == pytest.approx(float(theirs), abs=1e-6)  # theirs in float32
    # Its bins hold their lower ends, so that 1 is a sixteenth bin and these two errors cannot cancel.
    sure = torch.tensor([[1.0, 0.0], [0.95, 0.05]])
    apart = multiclass_calibration_error(sure, torch.tensor([1, 0]), num_classes=2, n_bins=15, norm="l1")
    assert float(apart) == pytest.approx(0.5 * 1 + 0.5 * 0.05)
    assert calibration_error(sure.log(), torch.tensor([1, 0])) == pytest.approx(0.975 - 0.5)


@pytest.mark.parametrize(("right", "wrong"), [(3, 1), (9, 1), (501, 499)])
@pytest.mark.parametrize("log_odds", [0.5, 2.0, 10.0])
def test_the_calibrating_scale_of_two_classes_is_the_true_log_odds_over_those_said(right, wrong, log_odds):
    found = calibrating_scale(*two_classes(log_odds, right=right, wrong=wrong))
    assert found == pytest.approx(math.log(right / wrong) / log_odds, rel=1e-9, abs=1e-11)


def test_honest_probabilities_have_scale_one_and_logits_times_three_a_third():
    log_p, y = HONEST
    assert calibrating_scale(log_p.double(), y) == pytest.approx(1, abs=1e-6)  # float32 logarithms
    some_log_p, some_y = guesses()
    assert calibrating_scale(F.log_softmax(3 * some_log_p, dim=1), some_y) == pytest.approx(
        calibrating_scale(some_log_p, some_y) / 3, rel=1e-9
    )


def test_the_calibrating_scale_makes_the_right_classes_likeliest():
    log_p, y = guesses(count=5000)  # more than one block of rows
    best = calibrating_scale(log_p, y)
    likelihoods = [log_likelihood(F.log_softmax(s * log_p, dim=1), y) for s in (0.99 * best, best, 1.01 * best)]
    assert likelihoods[1] == max(likelihoods)


def test_no_error_has_no_largest_scale_and_nothing_but_errors_none_above_zero():
    assert calibrating_scale(*two_classes(1.0, right=4, wrong=0)) == SCALE_LIMIT
    assert calibrating_scale(*two_classes(20.0, right=4, wrong=0)) == SCALE_LIMIT
    assert calibrating_scale(*two_classes(1.0, right=1, wrong=3)) == 0


def test_kl_to_uniform_goes_from_zero_to_the_logarithm_of_the_number_of_classes():
    log_p = F.log_softmax(torch.tensor([[0.0, 0.0, 0.0], [200.0, 0.0, 0.0]]), dim=1)
    assert torch.allclose(kl_to_uniform(log_p), torch.tensor([0.0, math.log(3)]), rtol=0, atol=1e-6)
    uniform = torch.full((3,), 1 / 3)
    reference = F.kl_div(uniform.log().expand(4, 3), HONEST[0], log_target=True, reduction="none").sum(dim=1)
    assert torch.allclose(kl_to_uniform(HONEST[0]), reference, rtol=0, atol=1e-6)
