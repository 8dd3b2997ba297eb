"""The martingale test: the exact classifier of a mixture passes, and planted inconsistencies fail."""

from collections.abc import Callable

import pytest
import torch
from oracles.mixture import batch_noise, three_blobs
from torch import Tensor

from classifiers.calibration import calibration_error
from classifiers.martingale import martingale_bins
from classifiers.probes import NoisedPredictions, noised_predictions
from guided_diffusion.data.subset import evenly_spaced
from guided_diffusion.diffusion.schedules import chain_from_betas, linear_betas

CHAIN = chain_from_betas(linear_betas(200))
LINKS = evenly_spaced(200, most=6)
MIXTURE = three_blobs(CHAIN)
LIMIT = 4.0
"""Standard errors: 50 bins of exact classifiers exceed it once in 300 such tests."""


def drawn(count: int = 2000) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = MIXTURE.weights.multinomial(count, replacement=True, generator=generator)
    return MIXTURE.draw(y, generator=generator).reshape(-1, 1, 2, 2), y


X0, Y = drawn()


def measured(change: Callable[[Tensor, Tensor], Tensor] = lambda log_p, x_t: log_p) -> list[NoisedPredictions]:
    """The exact classifier at all levels, changed at the third."""

    def log_prob(x_t: Tensor, t: Tensor) -> Tensor:
        exact = MIXTURE.log_prob(x_t, t)
        return change(exact, x_t).log_softmax(dim=1) if float(t[0]) == LINKS[2] else exact

    return list(noised_predictions(log_prob, CHAIN, LINKS, X0, Y, batch_noise(1)))


def failed(levels: list[NoisedPredictions]) -> list[int]:
    """The pairs that fail, by the index of their noisier level."""
    bins = [martingale_bins(levels[j - 1].path_log_p, levels[j].path_log_p) for j in range(1, len(levels))]
    return [j for j, one in enumerate(bins, start=1) if max(abs(b.z) for b in one) > LIMIT]


def test_the_exact_classifier_is_consistent():
    assert failed(measured()) == []


def test_noise_at_one_level_is_inconsistent_with_both_neighbours():
    assert failed(measured(lambda log_p, x_t: log_p + 2 * (60 * x_t.flatten(1)[:, :3]).sin())) == [2, 3]


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_confidence_that_changes_between_levels_is_inconsistent(factor):
    assert failed(measured(lambda log_p, x_t: factor * log_p)) == [2, 3]


def test_a_level_that_lost_what_a_noisier_one_knows_is_calibrated_and_inconsistent():
    levels = measured(lambda log_p, x_t: (Y.bincount() / len(Y)).log() + 0 * log_p)
    assert calibration_error(levels[2].log_p, Y) < 1e-6
    assert failed(levels) == [3]


def test_an_error_that_all_levels_share_is_not_seen():
    levels = [one._replace(path_log_p=one.path_log_p[:, [1, 2, 0]]) for one in measured()]
    assert calibration_error(levels[0].path_log_p, Y) > 0.5
    assert failed(levels) == []


def test_the_same_noise_at_two_levels_is_no_noising_path():
    levels = [one._replace(path_log_p=one.log_p) for one in measured()]
    assert failed(levels) != []


def test_bins_hold_all_images_and_classes_and_keep_their_probability():
    levels = measured()
    bins = martingale_bins(levels[1].path_log_p, levels[2].path_log_p)
    assert sum(one.count for one in bins) == 3 * len(Y)
    for name in ("p_t", "p_s"):
        assert sum(one.count * getattr(one, name) for one in bins) == pytest.approx(len(Y))
    assert [one.p_t for one in bins] == sorted(one.p_t for one in bins)


def test_the_absence_of_rare_events_is_no_inconsistency():
    # Of 500 images at 0.999 half an image is expected to turn out otherwise; none does, and all agree on it.
    log_p_t = torch.tensor([[0.999, 0.001]]).double().log().expand(500, 2)
    log_p_s = torch.tensor([[0.99999, 0.00001]]).double().log().expand(500, 2)
    assert max(abs(one.z) for one in martingale_bins(log_p_s, log_p_t)) < 1
    certain = torch.tensor([[0.0, -1e4]]).expand(500, 2)
    assert max(abs(one.z) for one in martingale_bins(certain.flip(1), certain)) > LIMIT
    assert all(one.z == 0 for one in martingale_bins(certain, certain))
