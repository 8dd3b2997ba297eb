"""DPM-Solver++ (2211.01095): second order in lambda, on estimates of x_0, which are guided and clipped beforehand.

lambda = log(alpha / sigma) with alpha = sqrt(alpha_bar) and sigma = sqrt(1 - alpha_bar) rises from noise to x_0, where
it is infinite; h is the length of a link in it. The linear part of the probability flow is solved exactly. The link to
x_0 is of first order, and exact if the estimate of x_0 is.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..diffusion.chain import DiffusionChain, Step
from ..diffusion.denoiser import Denoiser, Estimate
from ..diffusion.noise import Noise
from .sampler import LastLink, OnStep


def dpmpp_2m(
    denoiser: Denoiser, chain: DiffusionChain, x_T: Tensor, noise: Noise, *, on_step: OnStep | None = None
) -> Tensor:
    """x_0 (B, C, H, W) by the multistep DPM-Solver++(2M), Algorithm 2, from x_T standard normal.

    Deterministic, one evaluation a link. The first link is of first order, having no estimate behind it.
    """

    def link(x_t: Tensor, estimate: Estimate, step: Step, last: LastLink | None) -> Tensor:
        d, alpha_bar, alpha_bar_s = _along(estimate, step, last), float(step.alpha_bar), float(step.alpha_bar_prev)
        return exponential_step(x_t, d, alpha_bar=alpha_bar, alpha_bar_s=alpha_bar_s)

    return _multistep(denoiser, chain, x_T, link, on_step=on_step)


def dpmpp_2m_sde(
    denoiser: Denoiser, chain: DiffusionChain, x_T: Tensor, noise: Noise, *, on_step: OnStep | None = None
) -> Tensor:
    """x_0 (B, C, H, W) by SDE-DPM-Solver++(2M), the diffusion's own reverse equation, from x_T standard normal.

    One evaluation a link; noise is drawn at every link but the last.
    """

    def link(x_t: Tensor, estimate: Estimate, step: Step, last: LastLink | None) -> Tensor:
        mean, var = sde_link(x_t, estimate, step, last)
        return mean if step.alpha_bar_prev == 1 else mean + var**0.5 * noise(mean)

    return _multistep(denoiser, chain, x_T, link, on_step=on_step)


def sde_link(x_t: Tensor, estimate: Estimate, step: Step, last: LastLink | None) -> tuple[Tensor, float]:
    """The `Link` of `dpmpp_2m_sde`."""
    alpha_bar, alpha_bar_s, h = float(step.alpha_bar), float(step.alpha_bar_prev), _length(step)
    kept = ((1 - alpha_bar_s) / (1 - alpha_bar)) ** 0.5 * math.exp(-h)
    mean = kept * x_t - alpha_bar_s**0.5 * math.expm1(-2 * h) * _along(estimate, step, last)
    return mean, (1 - alpha_bar_s) * -math.expm1(-2 * h)


@torch.no_grad()
def _multistep(
    denoiser: Denoiser, chain: DiffusionChain, x_T: Tensor, link: Callable[..., Tensor], *, on_step: OnStep | None
) -> Tensor:
    """Algorithm 2, each link taken by `link`, which is told the one before."""
    x_t, last = x_T, None
    for k in reversed(range(len(chain))):
        step = chain.at(k, like=x_t)
        estimate = denoiser(x_t, step)
        x_t = link(x_t, estimate, step, last)
        last = LastLink(estimate.x0, step)
        if on_step is not None:
            on_step(k, x_t, estimate)
    return x_t


def _along(estimate: Estimate, step: Step, last: LastLink | None) -> Tensor:
    """The estimate of x_0 halfway along a link; at the first and at the last link its own."""
    if last is None or step.alpha_bar_prev == 1:
        return estimate.x0
    return halfway(estimate.x0, last.x0, h=_length(step), h_last=_length(last.step))


def _length(step: Step) -> float:
    """h of a link, in lambda."""
    return half_log_snr(float(step.alpha_bar_prev)) - half_log_snr(float(step.alpha_bar))


@torch.no_grad()
def dpmpp_2s(
    denoiser: Denoiser, chain: DiffusionChain, x_T: Tensor, noise: Noise, *, on_step: OnStep | None = None
) -> Tensor:
    """x_0 (B, C, H, W) by the singlestep DPM-Solver++(2S), Algorithm 1, from x_T standard normal.

    A step takes two links. The level between them, the paper's s_i, is one of the chain, so that networks see only
    timesteps they were trained on. Deterministic, one evaluation a link. The last link stands alone; so does the first
    of an even number, and one that leaves pure noise, where lambda is infinite too.
    """
    x_t, start = x_T, None
    for k in reversed(range(len(chain))):
        step = chain.at(k, like=x_t)
        estimate = denoiser(x_t, step)
        alpha_bar, alpha_bar_s = float(step.alpha_bar), float(step.alpha_bar_prev)
        if start is None:
            start = (x_t, estimate.x0, alpha_bar) if k > 0 and k % 2 == 0 and alpha_bar > 0 else None
            x_t = exponential_step(x_t, estimate.x0, alpha_bar=alpha_bar, alpha_bar_s=alpha_bar_s)
        else:
            x_start, x0_start, alpha_bar_start = start
            lambda_start = half_log_snr(alpha_bar_start)
            h, h_between = half_log_snr(alpha_bar_s) - lambda_start, half_log_snr(alpha_bar) - lambda_start
            d = x0_start + h / (2 * h_between) * (estimate.x0 - x0_start)
            x_t, start = exponential_step(x_start, d, alpha_bar=alpha_bar_start, alpha_bar_s=alpha_bar_s), None
        if on_step is not None:
            on_step(k, x_t, estimate)
    return x_t


def halfway(x0: Tensor, x0_last: Tensor | None, *, h: float, h_last: float) -> Tensor:
    """D_i of Algorithm 2: the line through x0_last and, h_last later, x0, carried on halfway along a link of length h.

    (1 + 1 / (2 r)) x0 - 1 / (2 r) x0_last with r = h_last / h. Without an estimate before, x0 itself.
    """
    return x0 if x0_last is None else x0 + h / (2 * h_last) * (x0 - x0_last)


def half_log_snr(alpha_bar: float) -> float:
    """lambda = log(alpha / sigma); infinite at x_0, minus infinity in pure noise."""
    if alpha_bar in (0, 1):
        return math.inf if alpha_bar else -math.inf
    return 0.5 * (math.log(alpha_bar) - math.log1p(-alpha_bar))


def exponential_step(x_t: Tensor, x0: Tensor, *, alpha_bar: float, alpha_bar_s: float) -> Tensor:
    """sigma_s / sigma_t x_t - alpha_s (exp(-h) - 1) x0: x_s (B, C, H, W), exact where the estimate x0 of x_0 stays.

    Proposition 4.1 at first order, which is DDIM. A link to alpha_bar_s 1 ends in x0 itself.
    """
    h = half_log_snr(alpha_bar_s) - half_log_snr(alpha_bar)
    towards_x_t = ((1 - alpha_bar_s) / (1 - alpha_bar)) ** 0.5
    return towards_x_t * x_t - alpha_bar_s**0.5 * math.expm1(-h) * x0
