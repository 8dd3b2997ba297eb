"""Feedback guidance and the cap of moves of x_0, against closed forms."""

import pytest
import torch
from oracles.mixture import draws, three_blobs
from torch.testing import assert_close

from guided_diffusion.diffusion.schedules import chain_from_betas, linear_betas
from guided_diffusion.guidance import capped, classifier_score, feedback_score, tilted

MIXTURE = three_blobs(chain_from_betas(linear_betas(1000)))
EXACT = {"rtol": 1e-12, "atol": 1e-12}
SCALES = torch.tensor([0.0, 0.5, 1.0, 2.0, 4.0, 10.0], dtype=torch.float64)
y = torch.tensor([0, 1, 2, 1, 0, 2])
x_t = draws(6, 2, 1, 2, seed=3)
MIDDLE = MIXTURE.chain.at(300, like=x_t)


def test_feedback_is_bayes_rule_for_a_classifier_of_partly_random_labels():
    def log_prob(x, t):
        return (0.7 * MIXTURE.log_prob(x, t).exp() + 0.3 / 3).log()

    bayes = classifier_score(MIXTURE.log_prob, y, 1.0)(x_t, MIDDLE)
    sound = MIXTURE.log_prob(x_t, MIDDLE.t)[range(6), y].exp() > 0.3 / 3 / 0.7 / 9  # where the factor is below 10
    assert sound.sum() >= 4
    assert_close(feedback_score(log_prob, y, 1.0, pi=0.7)(x_t, MIDDLE)[sound], bayes[sound], rtol=1e-10, atol=1e-12)


def test_feedback_without_random_labels_is_the_classifiers_score():
    found, plain = feedback_score(MIXTURE.log_prob, y, SCALES, pi=1.0), classifier_score(MIXTURE.log_prob, y, SCALES)
    assert_close(found(x_t, MIDDLE), plain(x_t, MIDDLE), **EXACT)


def test_feedback_is_tenfold_where_the_class_is_lost():
    def log_prob(x, t):
        far = torch.tensor([900.0, 0.0, 0.0], dtype=torch.float64)
        return (x.flatten(1)[:, :3] + far).log_softmax(dim=1)

    others = torch.full((6,), 1)
    found = feedback_score(log_prob, others, 2.0)(x_t, MIDDLE)
    assert_close(found, classifier_score(log_prob, others, 20.0)(x_t, MIDDLE), **EXACT)
    assert torch.isfinite(found).all()
    with pytest.raises(ValueError, match="pi of feedback guidance is the share of sound labels"):
        feedback_score(log_prob, others, 1.0, pi=1.5)


def test_a_cap_bounds_the_move_of_x_0_and_keeps_its_direction():
    term = classifier_score(MIXTURE.log_prob, y, 1.0)
    plain, short = (tilted(MIXTURE.denoiser, one)(x_t, MIDDLE).x0 for one in (term, capped(term, 0.4)))
    unguided = MIXTURE.denoiser(x_t, MIDDLE).x0
    lengths, found = ((moved - unguided).square().mean(dim=(1, 2, 3)).sqrt() for moved in (plain, short))
    assert 0 < (lengths > 0.4).sum() < 6
    assert_close(found, lengths.clamp(max=0.4), rtol=1e-9, atol=0)
    factor = (found / lengths).reshape(-1, 1, 1, 1)
    assert_close(short - unguided, factor * (plain - unguided), rtol=1e-9, atol=1e-12)
