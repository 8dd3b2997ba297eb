"""Feedback guidance (2506.06085): stronger where the class is lost, and the exact cure of labels drawn at random."""

import math

import torch
from torch import Tensor

from ..diffusion.chain import Step
from .score import LogProb, Scale, ScoreTerm, at_label, is_zero, log_prob_and_gradient, times

LARGEST_FACTOR = 10.0
"""Of the scale, as published; also where p(y | x_t) is below the share that random labels would have."""


def feedback_score(log_prob: LogProb, y: Tensor, scale: Scale, *, pi: float = 0.9) -> ScoreTerm:
    """`classifier_score` with the scale s r / (r - (1 - pi)) of each sample, r = p(y | x_t) / p(y), p(y) even.

    It is s grad log(p(y | x_t) - (1 - pi) p(y)): Bayes' rule at s = 1 for a classifier of which the share 1 - pi of the
    labels was drawn at random, or smoothed. pi = 1 is `classifier_score`.

    Raises:
        ValueError: a pi that is not above 0 and at most 1.
    """
    if not 0 < pi <= 1:
        raise ValueError(f"pi of feedback guidance is the share of sound labels, above 0 and at most 1; got {pi:g}")

    def term(x_t: Tensor, step: Step) -> Tensor:
        if is_zero(scale):
            return torch.zeros_like(x_t)
        log_p, gradient = log_prob_and_gradient(lambda x: log_prob(x, step.t), x_t, y)
        lost = (1 - pi) * torch.exp(-at_label(log_p, y) - math.log(log_p.shape[1]))  # (1 - pi) / r
        factor = torch.where(lost < 1, 1 / (1 - lost), LARGEST_FACTOR).clamp(max=LARGEST_FACTOR)
        return times(scale * factor, gradient)

    return term
