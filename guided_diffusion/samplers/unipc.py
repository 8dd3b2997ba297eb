"""UniPC (2302.04867) of order 2, on estimates of x_0, with B_2(h) = exp(h) - 1 ("bh2")."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.chain import DiffusionChain
from ..diffusion.denoiser import Denoiser
from ..diffusion.noise import Noise
from .dpmpp import exponential_step, half_log_snr, halfway
from .sampler import OnStep


@dataclass(frozen=True)
class _Level:
    """A level behind the sampler: its corrected state, its lambda, and the estimate of x_0 made there."""

    x: Tensor
    alpha_bar: float
    x0: Tensor

    @property
    def lam(self) -> float:
        return half_log_snr(self.alpha_bar)


@torch.no_grad()
def unipc(
    denoiser: Denoiser, chain: DiffusionChain, x_T: Tensor, noise: Noise, *, on_step: OnStep | None = None
) -> Tensor:
    """x_0 (B, C, H, W) by UniPC-2, from x_T standard normal: third order, deterministic, one evaluation a link.

    UniP-2 with B_2 is DPM-Solver++(2M). UniC-2 then corrects the state it led to with the estimate made there, which is
    not made again. The first prediction and correction, having less behind them, are of order 1, and so is the link
    to x_0, where lambda is infinite. `on_step` is shown predictions, before they are corrected.
    """
    x_t, before, last = x_T, None, None
    for k in reversed(range(len(chain))):
        step = chain.at(k, like=x_t)
        estimate = denoiser(x_t, step)
        alpha_bar, alpha_bar_s = float(step.alpha_bar), float(step.alpha_bar_prev)
        if last is not None:
            d = _corrected(before, last, estimate.x0, half_log_snr(alpha_bar))
            x_t = exponential_step(last.x, d, alpha_bar=last.alpha_bar, alpha_bar_s=alpha_bar)
        before, last = last, _Level(x_t, alpha_bar, estimate.x0)
        d = estimate.x0 if k == 0 or before is None else _predicted(before, last, half_log_snr(alpha_bar_s))
        x_t = exponential_step(x_t, d, alpha_bar=alpha_bar, alpha_bar_s=alpha_bar_s)
        if on_step is not None:
            on_step(k, x_t, estimate)
    return x_t


def _predicted(before: _Level, last: _Level, lam: float) -> Tensor:
    """m_0 + 1/2 D_1 / r_1: what UniP-2 integrates on the way from `last` to lam."""
    return halfway(last.x0, before.x0, h=lam - last.lam, h_last=last.lam - before.lam)


def _corrected(before: _Level | None, last: _Level, x0: Tensor, lam: float) -> Tensor:
    """m_0 + rho_1 D_1 / r_1 + rho_2 D_2: what UniC integrates on the way from `last` to lam, where the estimate is x0.

    UniC-2 (Algorithm 1, for estimates of x_0): rho solves R_2 rho = (b_1, b_2) with r_2 = 1. Without `before` UniC-1.
    """
    if before is None:
        return last.x0 + 0.5 * (x0 - last.x0)
    h = lam - last.lam
    r_1 = (before.lam - last.lam) / h
    # B_2(-h) = phi_1, so that the exponential step applies it.
    phi_1 = math.expm1(-h)
    phi_2 = phi_1 / -h - 1
    b_1, b_2 = phi_2 / phi_1, 2 * (phi_2 / -h - 0.5) / phi_1
    rho_1 = (b_1 - b_2) / (1 - r_1)
    rho_2 = b_1 - rho_1
    return last.x0 + rho_1 / r_1 * (before.x0 - last.x0) + rho_2 * (x0 - last.x0)
