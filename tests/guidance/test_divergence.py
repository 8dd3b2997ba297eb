"""Divergence-regularised guidance, against the gradients of its parts on a mixture."""

import pytest
import torch
from oracles.mixture import draws, three_blobs
from torch.testing import assert_close

from guided_diffusion.diffusion.schedules import chain_from_betas, linear_betas
from guided_diffusion.guidance import classifier_score, divergence_score
from guided_diffusion.guidance.config import GuidanceConfig
from guided_diffusion.guidance.divergence import forward_kl

MIXTURE = three_blobs(chain_from_betas(linear_betas(1000)))
y = torch.tensor([0, 1, 2, 1, 0, 2])
x_t = draws(6, 2, 1, 2, seed=3)
STEP = MIXTURE.chain.at(300, like=x_t)
SMOOTHING = 0.15


def label_and_prediction():
    q = torch.full((6, 3), SMOOTHING / 3, dtype=torch.float64)
    q[range(6), y] += 1 - SMOOTHING
    return q.log(), MIXTURE.log_prob(x_t, STEP.t)


def test_the_score_adds_the_gradients_of_all_classes_weighted_by_the_label():
    log_q, _ = label_and_prediction()
    gradients = [classifier_score(MIXTURE.log_prob, torch.full((6,), c), 1.0)(x_t, STEP) for c in range(3)]
    pull = sum(q[:, None, None, None] * one for q, one in zip(log_q.exp().T, gradients, strict=True))
    expected = 1.5 * (classifier_score(MIXTURE.log_prob, y, 1.0)(x_t, STEP) + 0.7 * pull)
    found = divergence_score(forward_kl, MIXTURE.log_prob, y, 1.5, weight=0.7, smoothing=SMOOTHING)(x_t, STEP)
    assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_of_logits_the_divergences_gradient_is_label_minus_prediction():
    log_q, log_p = label_and_prediction()
    logits = (log_p + 3.0).requires_grad_()
    (gradient,) = torch.autograd.grad(-forward_kl(log_q, logits.log_softmax(dim=1)).sum(), logits)
    assert_close(gradient, log_q.exp() - log_p.exp(), rtol=1e-12, atol=1e-12)


def test_without_weight_it_is_the_classifiers_score():
    found = divergence_score(forward_kl, MIXTURE.log_prob, y, 2.0, weight=0.0)(x_t, STEP)
    assert_close(found, classifier_score(MIXTURE.log_prob, y, 2.0)(x_t, STEP), rtol=1e-13, atol=1e-14)


def test_a_divergence_is_positive_and_0_between_equals():
    log_q, log_p = label_and_prediction()
    assert float(forward_kl(log_q, log_p).min()) > 0
    assert_close(forward_kl(log_q, log_q), torch.zeros(6).double(), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"score": "forward_kl", "score_options": {"smoothing": 1.0}}, "smoothing of the label above 0 and below 1"),
        ({"score": "forward_kl", "score_options": {"weight": -1.0}}, "a weight of at least 0"),
        ({"score": "forward_kl", "score_options": {"a": 1.0}}, "no option a .*; its options are weight, smoothing"),
        ({"score_options": {"weight": 1.0}}, "score plain has no option weight .*; it has none"),
    ],
)
def test_options_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GuidanceConfig(**settings)
