"""DDIM (2010.02502) with any share of noise, and the deterministic sampler run backwards."""

import torch
from torch import Tensor

from ..diffusion.chain import DiffusionChain, Step, eps_from_x0
from ..diffusion.denoiser import Denoiser, Estimate
from ..diffusion.noise import Noise
from .sampler import LastLink, OnStep


@torch.no_grad()
def ddim(
    denoiser: Denoiser,
    chain: DiffusionChain,
    x_T: Tensor,
    noise: Noise,
    *,
    eta: float = 0.0,
    on_step: OnStep | None = None,
) -> Tensor:
    """x_0 (B, C, H, W) by DDIM eq. 12 and 16, from x_T standard normal.

    eta: 0 is deterministic, 1 has the noise of `ddpm` with the posterior's variance. Noise is drawn only where it acts.

    Raises:
        ValueError: eta outside [0, 1].
    """
    check_eta(eta)
    x_t = x_T
    for k in reversed(range(len(chain))):
        step = chain.at(k, like=x_t)
        estimate = denoiser(x_t, step)
        mean, var = ddim_link(x_t, estimate, step, eta=eta)
        x_t = mean if var == 0 else mean + var**0.5 * noise(mean)
        if on_step is not None:
            on_step(k, x_t, estimate)
    return x_t


def ddim_link(
    x_t: Tensor, estimate: Estimate, step: Step, last: LastLink | None = None, *, eta: float
) -> tuple[Tensor, float]:
    """The `Link` of `ddim`, eq. 12 and 16."""
    eps = eps_from_x0(x_t, estimate.x0, step)
    alpha_bar, alpha_bar_prev = float(step.alpha_bar), float(step.alpha_bar_prev)
    var = eta**2 * (1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev)
    return alpha_bar_prev**0.5 * estimate.x0 + max(1 - alpha_bar_prev - var, 0.0) ** 0.5 * eps, var


@torch.no_grad()
def ddim_reverse(
    denoiser: Denoiser,
    chain: DiffusionChain,
    x_0: Tensor,
    *,
    on_step: OnStep | None = None,
) -> Tensor:
    """The latent x_T (B, C, H, W) from which `ddim` with eta 0 leads back to x_0 (DDIM section 4.3).

    The probability-flow equation followed towards noise. Its last link goes to alpha_bar 0, where x_T is eps itself.
    """
    x_t = x_0
    for k in range(len(chain)):
        step = chain.at(k, like=x_t)
        estimate = denoiser(x_t, step)
        eps = eps_from_x0(x_t, estimate.x0, step)
        alpha_bar_next = float(chain.alpha_bar[k + 1]) if k + 1 < len(chain) else 0.0
        x_t = alpha_bar_next**0.5 * estimate.x0 + (1 - alpha_bar_next) ** 0.5 * eps
        if on_step is not None:
            on_step(k, x_t, estimate)
    return x_t


def check_eta(eta: float) -> None:
    """Refuse a share of noise outside [0, 1].

    Raises:
        ValueError: such a share.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is the share of ancestral noise, between 0 and 1; got {eta}")
