"""One sampler per short file, and the one place where a sampler's name becomes a function."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

from torch import Tensor

from ..diffusion.chain import DiffusionChain
from ..diffusion.denoiser import Denoiser
from ..diffusion.noise import Noise
from ..diffusion.schedules import ChainConfig, make_chain, sampling_chain
from ..guidance import GradientAt, ScoreTerm, tilted
from . import spacing
from .callback import OnStep
from .counting import Counted
from .ddim import ddim, ddim_reverse
from .ddpm import ddpm
from .dpmpp import dpmpp_2m, dpmpp_2m_sde, dpmpp_2s
from .heun import heun
from .langevin import check_langevin, langevin, predictor_corrector
from .unipc import unipc

__all__ = [
    "Counted",
    "OnStep",
    "Sampler",
    "SamplerConfig",
    "SamplerName",
    "ddim",
    "ddim_reverse",
    "ddpm",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_2s",
    "heun",
    "langevin",
    "make_sampler",
    "predictor_corrector",
    "unipc",
]

SamplerName = Literal[
    "ddim", "ddpm", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2s", "heun", "langevin", "predictor_corrector", "unipc"
]

SPACINGS: dict[SamplerName, spacing.Spacing] = {
    "ddim": spacing.by_stride,
    "ddpm": spacing.evenly,
    "dpmpp_2m": spacing.uniformly_in_t,
    "dpmpp_2m_sde": spacing.uniformly_in_t,
    "dpmpp_2s": spacing.uniformly_in_t,
    "heun": spacing.by_rho,
    "langevin": spacing.uniformly_in_log_sigma,
    "predictor_corrector": spacing.uniformly_in_t,
    "unipc": spacing.uniformly_in_t,
}
"""What a plain count of steps means to each sampler: its paper's spacing."""

OWNERS: dict[str, tuple[SamplerName, ...]] = {
    "eta": ("ddim",),
    "snr": ("langevin", "predictor_corrector"),
    "langevin_steps": ("langevin", "predictor_corrector"),
}
"""The options that only some samplers have."""


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Which sampler, over which timesteps."""

    name: SamplerName = "ddim"
    """ddpm is guided by the mean shift of ADM Algorithm 1, other samplers by the tilted estimate of Algorithm 2. ddim
    with eta 0 is Euler's method."""
    steps: int | str = 25
    """How many timesteps, in the sampler's own spacing, 25 or "25", or which: sections "10,20,30", or a whole stride
    "ddim25"."""
    eta: float = 0.0
    """Share of ancestral noise in DDIM, 0..1; the other samplers have no use for it and refuse it."""
    snr: float | None = None
    """Length of Langevin's steps, the r of 2011.13456; null: as published, 0.16, or 0.22 without a predictor."""
    langevin_steps: int | None = None
    """Langevin's steps at each level; null: as published, 1, or 100 without a predictor."""

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta is the share of ancestral noise, between 0 and 1; got {self.eta}")
        if isinstance(self.steps, str) and self.steps.strip().isdecimal():
            object.__setattr__(self, "steps", int(self.steps))  # a quoted count is a count, in manifests as well
        for option, owners in OWNERS.items():
            if getattr(self, option) and self.name not in owners:
                have = f"only {owners[0]} has it" if len(owners) == 1 else f"only {' and '.join(owners)} have it"
                raise ValueError(f"{option} {getattr(self, option)} was given to {self.name}; {have}: leave it out")
        check_langevin(self.snr, self.langevin_steps)

    def levels(self, chain: ChainConfig) -> DiffusionChain:
        """The noise levels of a model's chain that the sampler visits.

        A plain count means each sampler's published spacing, as `SPACINGS` has it: ddpm spreads it over the whole
        chain, while all others leave the noisiest levels out (ddim up to half the chain's length). There alpha_bar is
        nearly 0, and tilting divides by its root: at a cosine schedule's last level by 5e-5. In continuous time the
        levels are even in time for every sampler.

        Raises:
            ValueError: as `sampling_chain`, and for more steps than the sampler's spacing finds levels.
        """
        if isinstance(self.steps, str) or chain.is_continuous:
            return sampling_chain(chain, str(self.steps))
        whole = make_chain(chain)
        return whole.shortened(SPACINGS[self.name](whole, self.steps))


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


def make_sampler(config: SamplerConfig, *, gradient_at: GradientAt = "x_t") -> Sampler:
    """The sampler a config names; gradient_at: where ddpm's mean shift takes its gradient.

    Raises:
        ValueError: a gradient at the mean for a sampler that shifts none.
    """
    if gradient_at != "x_t" and config.name != "ddpm":
        raise ValueError(
            f"only ddpm shifts a mean to take the gradient at; {config.name} knows x_t alone: leave it out"
        )
    samplers: dict[SamplerName, Sampler] = {
        "ddpm": _shifting(partial(ddpm, gradient_at=gradient_at)),
        "ddim": _tilting(partial(ddim, eta=config.eta)),
        "dpmpp_2m": _tilting(dpmpp_2m),
        "dpmpp_2m_sde": _tilting(dpmpp_2m_sde),
        "dpmpp_2s": _tilting(dpmpp_2s),
        "heun": _tilting(heun),
        "langevin": _tilting(partial(langevin, **_langevin_options(config))),
        "predictor_corrector": _tilting(partial(predictor_corrector, **_langevin_options(config))),
        "unipc": _tilting(unipc),
    }
    return samplers[config.name]


def _langevin_options(config: SamplerConfig) -> dict[str, Any]:
    """Those of Langevin's samplers that are not left as published."""
    options = {"snr": config.snr, "langevin_steps": config.langevin_steps}
    return {name: value for name, value in options.items() if value is not None}


def _shifting(sampler: Callable[..., Tensor]) -> Sampler:
    def sample(
        denoiser: Denoiser,
        chain: DiffusionChain,
        x_T: Tensor,
        noise: Noise,
        *,
        guidance: ScoreTerm | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        return sampler(denoiser, chain, x_T, noise, mean_shift=guidance, on_step=on_step)

    return sample


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
