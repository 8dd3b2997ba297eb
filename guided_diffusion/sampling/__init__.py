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
from ..schedules import timestep_subset
from .callback import OnStep
from .ddim import ddim, ddim_reverse
from .ddpm import ddpm

__all__ = ["OnStep", "Sampler", "SamplerConfig", "ddim", "ddim_reverse", "ddpm", "make_sampler"]


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Which sampler, over which timesteps."""

    name: Literal["ddim", "ddpm"] = "ddim"
    """ddpm is guided by the mean shift of ADM Algorithm 1, other samplers by the tilted estimate of Algorithm 2."""
    steps: int | str = 25
    """How many timesteps, in the sampler's own spacing, or which: sections "10,20,30", or a whole stride "ddim25"."""
    eta: float = 0.0
    """Share of ancestral noise in DDIM, 0..1; the other samplers have no use for it and refuse it."""

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta is the share of ancestral noise, between 0 and 1; got {self.eta}")
        if self.eta and self.name != "ddim":
            raise ValueError(f"eta {self.eta} was given to {self.name}; only ddim has it: leave it out")

    def timesteps(self, num_steps: int) -> Tensor:
        """The indices kept of a chain of num_steps.

        A plain count means each sampler's published spacing: ddpm spreads it over the whole chain, ddim takes a whole
        stride from 0 and so, up to half the chain's length, leaves the noisiest levels out. There alpha_bar is nearly
        0, and tilting divides by its root: at a cosine schedule's last level by 5e-5.

        Raises:
            ValueError: as `timestep_subset`.
        """
        is_count = isinstance(self.steps, int)
        return timestep_subset(num_steps, f"ddim{self.steps}" if is_count and self.name == "ddim" else str(self.steps))


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
    """The sampler a config names."""
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
