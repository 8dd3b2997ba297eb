"""Discriminator guidance (2211.17091): a classifier of real against generated images corrects the model that made them.

With as many images of both classes, the odds of "real" at x_t are q(x_t) / q_model(x_t) for the exact discriminator:
the score of their logarithm, added to the model's, is the score of the real images.
"""

from torch import Tensor

from ..diffusion.chain import Step
from .score import LogDensity, LogProb


def log_odds(log_prob: LogProb, *, of: int, against: int) -> LogDensity:
    """log p(of | x_t) - log p(against | x_t) of two classes, nats. Other shares of the classes add a constant."""

    def log_density(x_t: Tensor, step: Step) -> Tensor:
        log_p = log_prob(x_t, step.t)
        return log_p[:, of] - log_p[:, against]

    return log_density
