"""Classifier guidance: scores of a classifier of noisy images."""

import math

import torch
from torch import Tensor

from ..diffusion.chain import Step
from .score import LogDensity, LogProb, Scale, ScoreTerm, at_label, is_zero, log_prob_and_gradient, score_of, times

ENTROPY_FLOOR = 0.01
"""Entropy, over that of a uniform prediction, below which `entropy_scaled_score` grows no further: a hundredfold."""


def classifier_score(log_prob: LogProb, y: Tensor, scale: Scale) -> ScoreTerm:
    """scale * grad_{x_t} log p(y | x_t) of a noisy-image classifier (ADM section 4).

    y: int64 (B,). The gradient is taken at the x_t given; samplers give the state before the step, as the published
    code does, and `ddpm(..., gradient_at="mean")` what Algorithm 1 prints. At scale 0 the classifier is not called.
    """

    return score_of(class_log_density(log_prob, y), scale)


def class_log_density(log_prob: LogProb, y: Tensor) -> LogDensity:
    """log p(y | x_t) of a noisy-image classifier, for labels y (B,) int64."""

    def log_density(x_t: Tensor, step: Step) -> Tensor:
        return at_label(log_prob(x_t, step.t), y)

    return log_density


def entropy_scaled_score(log_prob: LogProb, y: Tensor, scale: Scale) -> ScoreTerm:
    """`classifier_score` with the scale s log C / H(p(. | x_t)) of each sample (ED-DPM, 2206.11474).

    The entropy H, nats, comes from the same C log-probabilities as the gradient: one call of the classifier. Where the
    prediction is certain of y its gradient vanishes faster than H does, but certain of another class it does not:
    H / log C is kept above `ENTROPY_FLOOR`, a bound of ours.

    Raises:
        ValueError: when called, for a classifier of one class, whose entropy is always 0.
    """

    def term(x_t: Tensor, step: Step) -> Tensor:
        if is_zero(scale):
            return torch.zeros_like(x_t)
        log_p, gradient = log_prob_and_gradient(lambda x: log_prob(x, step.t), x_t, y)
        if log_p.shape[1] < 2:
            raise ValueError("a classifier of one class is always certain; scale it by a number, not by its entropy")
        p = log_p.exp()
        entropy = -torch.xlogy(p, p).sum(dim=1)  # a probability of 0 adds 0, where p * log_p is not a number
        return times(scale / (entropy / math.log(log_p.shape[1])).clamp(min=ENTROPY_FLOOR), gradient)

    return term
