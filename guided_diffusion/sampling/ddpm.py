"""Ancestral sampling (DDPM Algorithm 2), with the paper's own classifier guidance (ADM Algorithm 1)."""

import torch
from torch import Tensor

from ..chain import DiffusionChain
from ..guidance import ScoreTerm
from ..noise import Noise
from ..prediction import Denoiser, transition
from .callback import OnStep


@torch.no_grad()
def ddpm(
    denoiser: Denoiser,
    chain: DiffusionChain,
    x_T: Tensor,
    noise: Noise,
    *,
    mean_shift: ScoreTerm | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """x_0 (B, C, H, W) by x_s ~ N(mean + Sigma * mean_shift, Sigma) along the chain, from x_T standard normal.

    mean_shift: the guidance term of ADM Algorithm 1, evaluated at x_t. Noise is drawn at every link but the last.
    """
    x_t = x_T
    for k in reversed(range(len(chain))):
        step = chain.at(k, like=x_t)
        estimate = denoiser(x_t, step)
        mean, var = transition(estimate, x_t, step)
        if mean_shift is not None:
            mean = mean + var * mean_shift(x_t, step)
        x_t = mean if k == 0 else mean + var**0.5 * noise(x_t)
        if on_step is not None:
            on_step(k, x_t, estimate)
    return x_t
