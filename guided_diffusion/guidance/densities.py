"""Densities of values that a network predicts from x_t: a real value's Gaussian, and a product of Bernoullis."""

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..diffusion.chain import Step
from .score import LogDensity

Gaussian = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(x_t, t) -> mean and log variance (B,) of a value, differentiable with respect to x_t."""


def gaussian_density(gaussian: Gaussian, value: float | Tensor) -> LogDensity:
    """log N(value; mean(x_t), var(x_t)), nats; value: in the unit of the mean, one for all or (B,)."""

    def log_density(x_t: Tensor, step: Step) -> Tensor:
        mean, log_var = gaussian(x_t, step.t)
        return gaussian_log_likelihood(mean, log_var, torch.as_tensor(value, dtype=mean.dtype, device=mean.device))

    return log_density


def attributes_density(log_odds: Callable[[Tensor, Tensor], Tensor], wanted: Mapping[int, bool]) -> LogDensity:
    """log prod_i p(a_i | x_t), nats, of the wanted attributes, by number; the others are left open.

    log_odds: (x_t, t) -> (B, A), differentiable with respect to x_t. The attributes are independent given x_t, as the
    network that predicts them supposes.
    """

    def log_density(x_t: Tensor, step: Step) -> Tensor:
        logits = log_odds(x_t, step.t)[:, [*wanted]]
        return bernoulli_log_likelihood(logits, logits.new_tensor([*wanted.values()])).sum(dim=1)

    return log_density


def gaussian_log_likelihood(mean: Tensor, log_var: Tensor, value: Tensor) -> Tensor:
    """log N(value; mean, exp(log_var)), nats, elementwise."""
    return -0.5 * ((value - mean) ** 2 * torch.exp(-log_var) + log_var + math.log(2 * math.pi))


def bernoulli_log_likelihood(log_odds: Tensor, value: Tensor) -> Tensor:
    """The log-probability of a value 0 or 1, nats, elementwise."""
    return -F.binary_cross_entropy_with_logits(log_odds, value.expand_as(log_odds), reduction="none")
