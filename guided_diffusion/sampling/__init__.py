"""One sampler per short file, and the one place where a sampler's name becomes a function."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from torch import Tensor

from ..chain import DiffusionChain
from ..guidance import ScoreTerm, tilted
from ..noise import Noise
from ..prediction import Denoiser
from .callback import OnStep
from .ddim import ddim, ddim_reverse
from .ddpm import ddpm

__all__ = ["OnStep", "Sampler", "SamplerConfig", "ddim", "ddim_reverse", "ddpm", "make_sampler"]


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Which sampler, over which timesteps."""

    name: Literal["ddim", "ddpm"] = "ddim"
    """ddpm is guided by the mean shift of ADM Algorithm 1, every other sampler by the tilted estimate of Algorithm 2."""
    steps: str = "ddim25"
    """Timesteps kept: "250", sections such as "10,20,30", "ddim25" (whole stride, as published for DDIM), "" for all."""
    eta: float = 0.0
    """Share of ancestral noise in DDIM, 0..1; the other samplers have no use for it and refuse it."""


class Sampler(Protocol):
    """A sampler with guidance in the place that suits it."""

    def __call__(
        self,
        denoiser: Denoiser,
        chain: DiffusionChain,
        x_T: Tensor,
        noise: Noise,
        *,
        guidance: ScoreTerm | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """x_0 (B, C, H, W) from x_T standard normal."""
        ...


def make_sampler(config: SamplerConfig) -> Sampler:
    """The sampler a config names.

    Raises:
        ValueError: eta given to a sampler that has none.
    """
    if config.eta and config.name != "ddim":
        raise ValueError(f"eta {config.eta} was given to {config.name}; only ddim has it: leave it out")
    samplers: dict[str, Sampler] = {"ddpm": _ddpm, "ddim": _tilting(partial(ddim, eta=config.eta))}
    return samplers[config.name]


def _ddpm(
    denoiser: Denoiser,
    chain: DiffusionChain,
    x_T: Tensor,
    noise: Noise,
    *,
    guidance: ScoreTerm | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    return ddpm(denoiser, chain, x_T, noise, mean_shift=guidance, on_step=on_step)


def _tilting(sampler: Callable[..., Tensor]) -> Sampler:
    def sample(
        denoiser: Denoiser,
        chain: DiffusionChain,
        x_T: Tensor,
        noise: Noise,
        *,
        guidance: ScoreTerm | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        guided = denoiser if guidance is None else tilted(denoiser, guidance)
        return sampler(guided, chain, x_T, noise, on_step=on_step)

    return sample
