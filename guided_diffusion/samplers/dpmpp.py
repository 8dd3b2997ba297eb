"""DPM-Solver++ (2211.01095): second order in lambda, on estimates of x_0, which are guided and clipped beforehand.

The link to x_0, where lambda is infinite, is of first order, and exact if the estimate of x_0 is.
"""

import math

import torch
from torch import Tensor

from ..diffusion.chain import DiffusionChain
from ..diffusion.denoiser import Denoiser
from ..diffusion.noise import Noise
from .callback import OnStep
from .exponential import exponential_step, half_log_snr


@torch.no_grad()
def dpmpp_2m(
    denoiser: Denoiser, chain: DiffusionChain, x_T: Tensor, noise: Noise, *, on_step: OnStep | None = None
) -> Tensor:
    """x_0 (B, C, H, W) by the multistep DPM-Solver++(2M), Algorithm 2, from x_T standard normal.

    Deterministic, one evaluation a link. The first link is of first order, having no estimate behind it.
    """
    x_t, x0_last, h_last = x_T, None, math.inf
    for k in reversed(range(len(chain))):
        step = chain.at(k, like=x_t)
        estimate = denoiser(x_t, step)
        alpha_bar, alpha_bar_s = float(step.alpha_bar), float(step.alpha_bar_prev)
        h = half_log_snr(alpha_bar_s) - half_log_snr(alpha_bar)
        d = estimate.x0 if k == 0 else halfway(estimate.x0, x0_last, h=h, h_last=h_last)
        x_t = exponential_step(x_t, d, alpha_bar=alpha_bar, alpha_bar_s=alpha_bar_s)
        x0_last, h_last = estimate.x0, h
        if on_step is not None:
            on_step(k, x_t, estimate)
    return x_t


@torch.no_grad()
def dpmpp_2m_sde(
    denoiser: Denoiser, chain: DiffusionChain, x_T: Tensor, noise: Noise, *, on_step: OnStep | None = None
) -> Tensor:
    """x_0 (B, C, H, W) by SDE-DPM-Solver++(2M), the diffusion's own reverse equation, from x_T standard normal.

    One evaluation a link; noise is drawn at every link but the last.
    """
    x_t, x0_last, h_last = x_T, None, math.inf
    for k in reversed(range(len(chain))):
        step = chain.at(k, like=x_t)
        estimate = denoiser(x_t, step)
        alpha_bar, alpha_bar_s = float(step.alpha_bar), float(step.alpha_bar_prev)
        h = half_log_snr(alpha_bar_s) - half_log_snr(alpha_bar)
        d = estimate.x0 if k == 0 else halfway(estimate.x0, x0_last, h=h, h_last=h_last)
        kept = ((1 - alpha_bar_s) / (1 - alpha_bar)) ** 0.5 * math.exp(-h)
        x_t = kept * x_t - alpha_bar_s**0.5 * math.expm1(-2 * h) * d
        if k > 0:
            x_t = x_t + ((1 - alpha_bar_s) * -math.expm1(-2 * h)) ** 0.5 * noise(x_t)
        x0_last, h_last = estimate.x0, h
        if on_step is not None:
            on_step(k, x_t, estimate)
    return x_t


@torch.no_grad()
def dpmpp_2s(
    denoiser: Denoiser, chain: DiffusionChain, x_T: Tensor, noise: Noise, *, on_step: OnStep | None = None
) -> Tensor:
    """x_0 (B, C, H, W) by the singlestep DPM-Solver++(2S), Algorithm 1, from x_T standard normal.

    A step takes two links: the level between, the paper's s_i, is the chain's own, so that networks are told only
    timesteps that they know. Deterministic, one evaluation a link. The last link stands alone; so does the first of a
    chain with an even number, and one that leaves pure noise, where lambda is infinite too.
    """
    x_t, begun = x_T, None
    for k in reversed(range(len(chain))):
        step = chain.at(k, like=x_t)
        estimate = denoiser(x_t, step)
        alpha_bar, alpha_bar_s = float(step.alpha_bar), float(step.alpha_bar_prev)
        if begun is None:
            begun = (x_t, estimate.x0, alpha_bar) if k > 0 and k % 2 == 0 and alpha_bar > 0 else None
            x_t = exponential_step(x_t, estimate.x0, alpha_bar=alpha_bar, alpha_bar_s=alpha_bar_s)
        else:
            x_begun, x0_begun, alpha_bar_begun = begun
            lambda_begun = half_log_snr(alpha_bar_begun)
            h, h_between = half_log_snr(alpha_bar_s) - lambda_begun, half_log_snr(alpha_bar) - lambda_begun
            d = x0_begun + h / (2 * h_between) * (estimate.x0 - x0_begun)
            x_t, begun = exponential_step(x_begun, d, alpha_bar=alpha_bar_begun, alpha_bar_s=alpha_bar_s), None
        if on_step is not None:
            on_step(k, x_t, estimate)
    return x_t


def halfway(x0: Tensor, x0_last: Tensor | None, *, h: float, h_last: float) -> Tensor:
    """D_i of Algorithm 2: the line through x0_last and, h_last later, x0, carried on halfway along a link of length h.

    (1 + 1 / (2 r)) x0 - 1 / (2 r) x0_last with r = h_last / h. Without an estimate before, x0 itself.
    """
    return x0 if x0_last is None else x0 + h / (2 * h_last) * (x0 - x0_last)
