"""Spacings: the levels of a chain that samplers visit for a plain count of steps."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..diffusion.chain import DiffusionChain
from ..diffusion.schedules import timestep_subset

LARGEST_SIGMA = 80.0
"""sqrt(1 / alpha_bar - 1) of the noisiest level visited, EDM's sigma_max (2206.00364 Table 1). Beyond it nothing is
left to integrate, and a cosine chain has a level of 20,000, by which guidance would multiply a classifier's errors."""

SMALLEST_SIGMA = 0.002
"""EDM's sigma_min."""

RHO = 7.0
"""EDM's exponent; the larger, the shorter links are towards x_0."""

Spacing = Callable[[DiffusionChain, int], Tensor]
"""(chain, count) -> the indices (count,) of the levels to visit, int64, increasing."""


def evenly(chain: DiffusionChain, count: int) -> Tensor:
    """Spread over the whole chain, both ends included, as published for the ancestral sampler."""
    return timestep_subset(len(chain), str(count))


def by_stride(chain: DiffusionChain, count: int) -> Tensor:
    """A whole stride from index 0 on (DDIM appendix D), so that up to half a chain the noisiest levels are left out."""
    return timestep_subset(len(chain), f"ddim{count}")


def uniformly_in_t(chain: DiffusionChain, count: int) -> Tensor:
    """Links of one length in t from the noisiest level to x_0 (DPM-Solver++, guided ImageNet), which is no level."""
    top = _noisiest(chain, count)
    return (torch.arange(1, count + 1, dtype=torch.float64) * (top + 1) / count).round().long() - 1


def uniformly_in_log_sigma(chain: DiffusionChain, count: int) -> Tensor:
    """The chain's levels nearest to a geometric sequence of sigma (1907.05600), both ends included."""
    return _nearest(chain, count, lambda sigma: sigma.log())


def by_rho(chain: DiffusionChain, count: int) -> Tensor:
    """The chain's levels nearest to EDM's, uniform in sigma^(1/7) (2206.00364 eq. 5), both ends included."""
    return _nearest(chain, count, lambda sigma: sigma ** (1 / RHO))


def _nearest(chain: DiffusionChain, count: int, scale: Callable[[Tensor], Tensor]) -> Tensor:
    """Indices of different levels, each the nearest to its place on the scale that none has before it."""
    top = _noisiest(chain, count)
    sigma = (1 / chain.alpha_bar - 1).sqrt()[: top + 1]
    known = scale(sigma)
    lowest = scale(sigma.clamp(min=SMALLEST_SIGMA))[0]
    wanted = torch.linspace(0, 1, count, dtype=torch.float64) * (known[-1] - lowest) + lowest
    nearest = (known[None] - wanted[:, None]).abs().argmin(dim=1)
    # Where the chain has fewer levels than the scale asks for, the next one up is taken, and at its end the next down.
    place = torch.arange(count)
    return torch.minimum((nearest - place).cummax(dim=0).values + place, top + 1 - count + place)


def _noisiest(chain: DiffusionChain, count: int) -> int:
    """The largest index to visit.

    Raises:
        ValueError: more levels than there are, or fewer than two.
    """
    levels = int((chain.alpha_bar >= 1 / (1 + LARGEST_SIGMA**2)).sum())
    if not 2 <= count <= levels:
        raise ValueError(
            f"asked for {count} sampling steps, but of the chain's {len(chain)} levels {levels} have a sigma up to "
            f"{LARGEST_SIGMA:g}: take 2 to {levels}"
        )
    return levels - 1


def check_signal(chain: DiffusionChain, sampler: str) -> None:
    """Refuse a chain that begins in pure noise to a sampler that divides by the signal.

    Raises:
        ValueError: such a chain.
    """
    if float(chain.alpha_bar[-1]) == 0:
        raise ValueError(
            f"the noisiest level has alpha_bar 0, an infinite sigma, from which {sampler} cannot start; leave that "
            f"level out or take another sampler"
        )
