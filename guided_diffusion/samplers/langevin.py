"""Langevin dynamics on the score: alone, annealed (1907.05600), and as the corrector of a predictor (2011.13456).

The score is the denoiser's, by Tweedie's formula, and is guided like that of any sampler. Step sizes are each sample's
own: the published code averages norms over the batch, by which a sample would depend on its neighbours.
"""

import torch
from torch import Tensor

from ..diffusion.chain import Coefficient, DiffusionChain, Step, eps_from_x0, scaled
from ..diffusion.denoiser import Denoiser, Estimate, transition
from ..diffusion.noise import Noise
from .sampler import OnStep
from .spacing import check_signal

LARGEST_EXCESS = 1.4
"""Of the noise variance, before `langevin` is warned of."""
ENOUGH = (2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 1000)
"""Counts of steps that a warning may advise."""


@torch.no_grad()
def langevin(
    denoiser: Denoiser,
    chain: DiffusionChain,
    x_T: Tensor,
    noise: Noise,
    *,
    snr: float = 0.05**0.5,
    langevin_steps: int = 100,
    on_step: OnStep | None = None,
) -> Tensor:
    """x_0 (B, C, H, W) by annealed Langevin dynamics (1907.05600 Algorithm 1), from x_T standard normal.

    At each level `langevin_steps` steps x + size * score + sqrt(2 size) z with size = 2 snr^2 (1 - alpha_bar): the
    paper's alpha_i / 2 = epsilon sigma_i^2 / (2 sigma_L^2) in variance-preserving coordinates. Its epsilon 2e-5 at
    sigma_L 0.01 and its 100 steps are the defaults. x_t / sqrt(alpha_bar) stays as it is from level to level. The last
    becomes its estimate of x_0 (2006.09011 section 5), which takes one evaluation more.

    Raises:
        ValueError: a chain that begins in pure noise; snr or langevin_steps not above 0.
    """
    check_signal(chain, "langevin")
    check_langevin(snr, langevin_steps)
    x_t = x_T
    for k in reversed(range(len(chain))):
        step = chain.at(k, like=x_t)
        for _ in range(langevin_steps - 1):
            x_t, _ = _annealed_step(denoiser, x_t, step, noise, snr)
        x_t, estimate = _annealed_step(denoiser, x_t, step, noise, snr)
        if k == 0:
            estimate = denoiser(x_t, step)
            x_t = estimate.x0
        if on_step is not None:
            on_step(k, x_t, estimate)  # with this level's noise: the next level's steps have yet to remove the rest
        if k > 0:
            x_t = (float(step.alpha_bar_prev) / float(step.alpha_bar)) ** 0.5 * x_t
    return x_t


def noise_excess(chain: DiffusionChain, *, snr: float, langevin_steps: int) -> float:
    """Largest noise variance in the states of `langevin` at the end of a level, as a multiple of that level's own.

    A step multiplies the noise by 1 - 2 snr^2 and adds a variance of 4 snr^2 of the level's, as far as the estimate of
    x_0 is exact. Where steps are too few or too short for the ratio of two levels, the noise of the first stays, and
    networks see more of it than they are told. 8x8 digits are at an FD of 0.6 from real ones for 1.2, 2.7 for 1.5, and
    11 for 8.
    """
    share, excess, largest = 2 * snr**2, 1.0, 1.0
    if share >= 2:  # a step throws the state further off than it was
        return float("inf")
    kept = (1 - share) ** (2 * langevin_steps)
    variance = [float(value) for value in 1 / chain.alpha_bar - 1]
    for k in reversed(range(len(chain))):
        excess = kept * excess + (1 - kept) / (1 - share / 2)
        largest = max(largest, excess)
        excess *= variance[k] / variance[k - 1] if k else 1.0
    return largest


def langevin_warning(chain: DiffusionChain, *, snr: float, langevin_steps: int) -> str | None:
    """Warning of steps that leave noise in the samples of `langevin`, with advice; None where they do not."""
    excess = noise_excess(chain, snr=snr, langevin_steps=langevin_steps)
    if excess <= LARGEST_EXCESS:
        return None
    advice = "a smaller sampler.snr, such as the published 0.22"
    enough = (n for n in ENOUGH if noise_excess(chain, snr=snr, langevin_steps=n) <= LARGEST_EXCESS)
    if steps := next(enough, None):
        advice = f"sampler.langevin_steps {steps} or more, or more levels (sampler.steps)"
    return (
        f"{len(chain)} levels of {langevin_steps} steps of snr {snr:.3g} leave {excess:.3g} times the noise variance "
        f"that networks are told, and samples are noisy; take {advice}"
    )


def _annealed_step(denoiser: Denoiser, x_t: Tensor, step: Step, noise: Noise, snr: float) -> tuple[Tensor, Estimate]:
    """The state after one Langevin step at this level, and the estimate it was made from."""
    estimate = denoiser(x_t, step)
    size = 2 * snr**2 * (1 - float(step.alpha_bar))
    return _langevin_step(x_t, score(x_t, estimate.x0, step), size, noise(x_t)), estimate


@torch.no_grad()
def predictor_corrector(
    denoiser: Denoiser,
    chain: DiffusionChain,
    x_T: Tensor,
    noise: Noise,
    *,
    snr: float = 0.16,
    langevin_steps: int = 1,
    on_step: OnStep | None = None,
) -> Tensor:
    """x_0 (B, C, H, W) by predictor and corrector (2011.13456 Algorithm 3), from x_T standard normal.

    At each level `langevin_steps` steps of Algorithm 5, whose size is 2 alpha (snr |z| / |score|)^2, alpha being the
    link's; then the link itself, as `ddpm`, the paper's ancestral predictor (its equation 4). As in the published code
    the corrector goes first, which corrects x_T as well and x_0 not. Defaults are that code's.

    Raises:
        ValueError: snr or langevin_steps not above 0.
    """
    check_langevin(snr, langevin_steps)
    x_t = x_T
    for k in reversed(range(len(chain))):
        step = chain.at(k, like=x_t)
        for _ in range(langevin_steps):
            gradient, z = score(x_t, denoiser(x_t, step).x0, step), noise(x_t)
            alpha = float(step.alpha_bar) / float(step.alpha_bar_prev)
            x_t = _langevin_step(x_t, gradient, 2 * alpha * (snr * _norm(z) / _norm(gradient)) ** 2, z)
        estimate = denoiser(x_t, step)
        mean, var = transition(estimate, x_t, step)
        x_t = mean if k == 0 else mean + var**0.5 * noise(x_t)
        if on_step is not None:
            on_step(k, x_t, estimate)
    return x_t


def score(x_t: Tensor, x0: Tensor, step: Step) -> Tensor:
    """grad log q(x_t) = (sqrt(alpha_bar) x0 - x_t) / (1 - alpha_bar) where x0 is E[x_0 | x_t] (Tweedie)."""
    return scaled(-((1 - step.alpha_bar) ** -0.5), eps_from_x0(x_t, x0, step))


def check_langevin(snr: float, langevin_steps: int) -> None:
    """Refuse steps that do not move.

    Raises:
        ValueError: snr or langevin_steps not above 0.
    """
    if not snr > 0:
        raise ValueError(f"snr sets the length of Langevin's steps and must be above 0; got {snr}")
    if langevin_steps < 1:
        raise ValueError(f"langevin_steps is a number of steps at each level, at least 1; got {langevin_steps}")


def _langevin_step(x_t: Tensor, gradient: Tensor, size: Coefficient, z: Tensor) -> Tensor:
    return x_t + size * gradient + (2 * size) ** 0.5 * z


def _norm(x: Tensor) -> Tensor:
    """(B, 1, .., 1), each sample's own."""
    return x.square().sum(dim=tuple(range(1, x.ndim)), keepdim=True).sqrt()
