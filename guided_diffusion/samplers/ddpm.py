"""Ancestral sampling (DDPM Algorithm 2), with the paper's own classifier guidance (ADM Algorithm 1)."""

from typing import Literal

import torch
from torch import Tensor

from ..diffusion.chain import DiffusionChain, Step
from ..diffusion.denoiser import Denoiser, Estimate, transition
from ..diffusion.noise import Noise
from ..guidance import ScoreTerm
from .sampler import LastLink, OnStep

GradientAt = Literal["x_t", "mean"]
"""Place of the mean shift's gradient: the state before the link, or the mean of the one after it."""


@torch.no_grad()
def ddpm(
    denoiser: Denoiser,
    chain: DiffusionChain,
    x_T: Tensor,
    noise: Noise,
    *,
    mean_shift: ScoreTerm | None = None,
    gradient_at: GradientAt = "x_t",
    on_step: OnStep | None = None,
) -> Tensor:
    """x_0 (B, C, H, W) by x_s ~ N(mean + Sigma * mean_shift, Sigma) along the chain, from x_T standard normal.

    mean_shift: the guidance term of ADM Algorithm 1. gradient_at: "x_t" evaluates it at the state before the link, as
    the published code does; "mean" at the mean of x_s with the timestep of s, as Algorithm 1 is derived (ADM section
    4.1). The last mean is an x_0 without a timestep of its own and gets the chain's first. Noise is drawn at every link
    but the last.
    """
    x_t = x_T
    for k in reversed(range(len(chain))):
        step = chain.at(k, like=x_t)
        estimate = denoiser(x_t, step)
        mean, var = transition(estimate, x_t, step)
        if mean_shift is not None:
            at_x_t = gradient_at == "x_t"
            term = mean_shift(x_t, step) if at_x_t else mean_shift(mean, chain.at(max(k - 1, 0), like=x_t))
            mean = mean + var * term
        x_t = mean if k == 0 else mean + var**0.5 * noise(x_t)
        if on_step is not None:
            on_step(k, x_t, estimate)
    return x_t


def ancestral_link(
    x_t: Tensor, estimate: Estimate, step: Step, last: LastLink | None = None
) -> tuple[Tensor, Tensor | float]:
    """The `Link` of `ddpm`: the model's own p(x_s | x_t)."""
    return transition(estimate, x_t, step)
