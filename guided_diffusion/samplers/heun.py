"""Heun's method on the probability flow in variance-exploding coordinates (EDM, 2206.00364)."""

import torch
from torch import Tensor

from ..diffusion.chain import DiffusionChain, sigma
from ..diffusion.denoiser import Denoiser
from ..diffusion.noise import Noise
from .sampler import OnStep
from .spacing import check_signal


@torch.no_grad()
def heun(
    denoiser: Denoiser, chain: DiffusionChain, x_T: Tensor, noise: Noise, *, on_step: OnStep | None = None
) -> Tensor:
    """x_0 (B, C, H, W) by EDM Algorithm 1 with sigma(t) = t and s(t) = 1, from x_T standard normal.

    x_hat = x_t / sqrt(alpha_bar) has noise sigma = sqrt(1 / alpha_bar - 1). Second order, deterministic, two
    evaluations a link, at its two ends, which are levels of the chain; the link to x_0 is Euler's and takes one. With
    Euler's links alone this is `ddim` with eta 0. EDM's churn is left out: it would need levels between the chain's.

    Raises:
        ValueError: a chain that begins in pure noise, whose sigma is infinite.
    """
    check_signal(chain, "heun")
    x_t = x_T
    for k in reversed(range(len(chain))):
        step = chain.at(k, like=x_t)
        estimate = denoiser(x_t, step)
        alpha_bar, alpha_bar_s = float(step.alpha_bar), float(step.alpha_bar_prev)
        sigma_t, sigma_s = sigma(alpha_bar), sigma(alpha_bar_s)
        x_hat = alpha_bar**-0.5 * x_t
        euler = estimate.x0 + sigma_s / sigma_t * (x_hat - estimate.x0)
        x_t = alpha_bar_s**0.5 * euler
        if k > 0:
            d_t = (x_hat - estimate.x0) / sigma_t
            d_s = (euler - denoiser(x_t, chain.at(k - 1, like=x_t)).x0) / sigma_s
            x_t = alpha_bar_s**0.5 * (x_hat + (sigma_s - sigma_t) * (0.5 * d_t + 0.5 * d_s))
        if on_step is not None:
            on_step(k, x_t, estimate)
    return x_t
