"""Divergence-regularised guidance, against the gradients of its parts on a mixture."""

import pytest
import torch
from oracles.mixture import draws, three_blobs
from torch.testing import assert_close

from guided_diffusion.diffusion.schedules import chain_from_betas, linear_betas
from guided_diffusion.guidance import classifier_score, divergence_score
from guided_diffusion.guidance.config import GuidanceConfig
from guided_diffusion.guidance.divergence import forward_kl, jensen_shannon, reverse_kl

MIXTURE = three_blobs(chain_from_betas(linear_betas(1000)))
y = torch.tensor([0, 1, 2, 1, 0, 2])
x_t = draws(6, 2, 1, 2, seed=3)
STEP = MIXTURE.chain.at(300, like=x_t)
DIVERGENCES = (forward_kl, reverse_kl, jensen_shannon)
SMOOTHING = 0.15


def label_and_prediction():
    q = torch.full((6, 3), SMOOTHING / 3, dtype=torch.float64)
    q[range(6), y] += 1 - SMOOTHING
    return q.log(), MIXTURE.log_prob(x_t, STEP.t)


# The derivatives of the divergences with respect to log p_c, as if these were free: a common part changes nothing,
# since sum_c p_c grad log p_c = 0.
BY_HAND = {
    forward_kl: lambda log_q, log_p: -log_q.exp(),
    reverse_kl: lambda log_q, log_p: log_p.exp() * (log_p - log_q),
    jensen_shannon: lambda log_q, log_p: log_p.exp() / 2 * (2 / (1 + (log_q - log_p).exp())).log(),
}


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_score_adds_the_divergences_derivative_times_every_classs_gradient(divergence):
    log_q, log_p = label_and_prediction()
    gradients = [classifier_score(MIXTURE.log_prob, torch.full((6,), c), 1.0)(x_t, STEP) for c in range(3)]
    pull = sum(
        weight[:, None, None, None] * one
        for weight, one in zip(BY_HAND[divergence](log_q, log_p).T, gradients, strict=True)
    )
    expected = 1.5 * (classifier_score(MIXTURE.log_prob, y, 1.0)(x_t, STEP) - 0.7 * pull)
    found = divergence_score(divergence, MIXTURE.log_prob, y, 1.5, weight=0.7, smoothing=SMOOTHING)(x_t, STEP)
    assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_without_weight_it_is_the_classifiers_score(divergence):
    found = divergence_score(divergence, MIXTURE.log_prob, y, 2.0, weight=0.0)(x_t, STEP)
    assert_close(found, classifier_score(MIXTURE.log_prob, y, 2.0)(x_t, STEP), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_divergence_is_positive_and_0_between_equals(divergence):
    log_q, log_p = label_and_prediction()
    assert float(divergence(log_q, log_p).min()) > 0
    assert_close(divergence(log_q, log_q), torch.zeros(6).double(), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"score": "forward_kl", "score_options": {"smoothing": 1.0}}, "smoothing of the label above 0 and below 1"),
        ({"score": "reverse_kl", "score_options": {"weight": -1.0}}, "a weight of at least 0"),
        ({"score": "jensen_shannon", "score_options": {"a": 1.0}}, "no option a .*; its options are weight, smoothing"),
        ({"score_options": {"weight": 1.0}}, "score plain has no option weight .*; it has none"),
    ],
)
def test_options_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GuidanceConfig(**settings)
