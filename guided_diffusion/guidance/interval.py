"""Guidance limited to an interval of noise levels (2404.07724).

The noise level is sigma = sqrt(1 / alpha_bar - 1), that of the variance-exploding view.
"""

import torch
from torch import Tensor

from ..diffusion.chain import Step, sigma
from ..diffusion.denoiser import Denoiser, Estimate
from .score import ScoreTerm


def within(term: ScoreTerm, sigma_min: float, sigma_max: float, *, outside: ScoreTerm | None = None) -> ScoreTerm:
    """`term` where sigma_min < sigma <= sigma_max, `outside` elsewhere; only one is called. None: zero.

    Errors as `is_inside`.
    """

    def limited(x_t: Tensor, step: Step) -> Tensor:
        chosen = term if is_inside(step, sigma_min, sigma_max) else outside
        return torch.zeros_like(x_t) if chosen is None else chosen(x_t, step)

    return limited


def between(guided: Denoiser, plain: Denoiser, sigma_min: float, sigma_max: float) -> Denoiser:
    """`guided` where sigma_min < sigma <= sigma_max, `plain` elsewhere; only one is called. Errors as `is_inside`."""

    def chosen(x_t: Tensor, step: Step) -> Estimate:
        return guided(x_t, step) if is_inside(step, sigma_min, sigma_max) else plain(x_t, step)

    return chosen


def is_inside(step: Step, sigma_min: float, sigma_max: float) -> bool:
    """sigma_min < sigma <= sigma_max at `step`.

    Raises:
        ValueError: a step that differs from sample to sample.
    """
    if isinstance(step.alpha_bar, Tensor):
        raise ValueError("an interval of guidance needs the whole batch at one step; call chain.at with one index")
    return sigma_min < sigma(step.alpha_bar) <= sigma_max
