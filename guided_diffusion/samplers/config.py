"""Settings of a sampler, and the table from its name to its function, spacing, guidance and own options."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor

from ..diffusion.chain import DiffusionChain
from ..diffusion.denoiser import Clip, Threshold
from ..diffusion.schedules import ChainConfig, make_chain, sampling_chain
from . import spacing
from .ddim import check_eta, ddim, ddim_link
from .ddpm import GradientAt, ancestral_link, ddpm
from .dpmpp import dpmpp_2m, dpmpp_2m_sde, dpmpp_2s, sde_link
from .heun import heun
from .langevin import check_langevin, langevin, langevin_warning, predictor_corrector
from .particles import ParticleFilter, Weight
from .sampler import GuidancePlace, Link, Sampler, guided_sampler
from .unipc import unipc

SamplerName = Literal[
    "ddim", "ddpm", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2s", "heun", "langevin", "predictor_corrector", "unipc"
]


@dataclass(frozen=True)
class Entry:
    """A sampler of the table."""

    function: Callable[..., Tensor]
    spacing: spacing.Spacing
    """The levels that a plain count of steps visits: its paper's spacing."""
    guidance: GuidancePlace = "tilted"
    options: tuple[str, ...] = ()
    """Its own options, fields of `SamplerConfig` and keywords of the function."""
    check: Callable[..., None] | None = None
    """Refuses values of the options with a ValueError."""
    warning: Callable[..., str | None] | None = None
    """Sentence about a chain and options with which samples are bad; None for good ones."""
    link: Callable[[Mapping[str, Any]], Link | None] = lambda own: None
    """From its options to its link, by whose density particles are weighed; None where it draws no noise."""
    measures_nats: bool = True
    """True where each link is guided once, so that its nats can be counted."""

    def default(self, option: str) -> Any:  # of any type
        """The published value of one of its options."""
        return inspect.signature(self.function).parameters[option].default


SAMPLERS: Mapping[SamplerName, Entry] = {
    "ddim": Entry(
        ddim,
        spacing.by_stride,
        options=("eta",),
        check=check_eta,
        link=lambda own: partial(ddim_link, **own) if own["eta"] > 0 else None,
    ),
    "ddpm": Entry(
        ddpm,
        spacing.evenly,
        guidance="mean_shift",
        options=("gradient_at",),
        link=lambda own: ancestral_link,
    ),
    "dpmpp_2m": Entry(dpmpp_2m, spacing.uniformly_in_t),
    "dpmpp_2m_sde": Entry(dpmpp_2m_sde, spacing.uniformly_in_t, link=lambda own: sde_link),
    "dpmpp_2s": Entry(dpmpp_2s, spacing.uniformly_in_t),
    "heun": Entry(heun, spacing.by_rho),
    "langevin": Entry(
        langevin,
        spacing.uniformly_in_log_sigma,
        options=("snr", "langevin_steps"),
        check=check_langevin,
        warning=langevin_warning,
        measures_nats=False,
    ),
    "predictor_corrector": Entry(
        predictor_corrector,
        spacing.uniformly_in_t,
        options=("snr", "langevin_steps"),
        check=check_langevin,
        measures_nats=False,
    ),
    "unipc": Entry(unipc, spacing.uniformly_in_t),
}

GUIDANCE_OPTIONS = ("gradient_at",)
"""Options that say how a sampler is guided: they need a classifier, and manifests list them under "guidance"."""


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Sampler, the timesteps it visits, and how it clips estimates of x_0."""

    name: SamplerName = "ddim"
    """ddim, which with eta 0 is Euler's method; the ancestral ddpm, guided by the paper's mean shift; for few steps
    dpmpp_2m, dpmpp_2s (DPM-Solver++), unipc or heun (EDM; two evaluations a step); with noise dpmpp_2m_sde; on the
    score langevin, predictor_corrector."""
    steps: int | str = 25
    """Number of timesteps, in the sampler's own spacing, or which timesteps: sections 10,20,30, or a whole stride
    ddim25."""
    eta: float | None = None
    """Share of ancestral noise in ddim, 0..1; null: 0."""
    snr: float | None = None
    """Step size of langevin and predictor_corrector, r in 2011.13456; null: as published, 0.22 and 0.16."""
    langevin_steps: int | None = None
    """Steps of langevin and predictor_corrector at each noise level; null: as published, 100 and 1."""
    gradient_at: GradientAt | None = None
    """Place of the classifiers' gradients in ddpm's mean shift: the state x_t before the link, as in the published
    code, or the mean after it, with that one's timestep and noise level, as in ADM's Algorithm 1. null: x_t."""
    clip: float | None = 1.0
    """Estimates of x_0 are clamped to [-clip, clip]; null: they are not."""
    threshold: float | None = None
    """In place of clip, dynamic thresholding: each estimate of x_0 is clamped to this quantile of its absolute values,
    at least 1, and divided by it; 0.995 is usual. null: none."""

    def __post_init__(self) -> None:
        if self.name not in SAMPLERS:  # in Python, where no command line has checked it
            raise ValueError(f'there is no sampler "{self.name}"; there are {", ".join(SAMPLERS)}')
        if isinstance(self.steps, str) and self.steps.strip().isdecimal():
            object.__setattr__(self, "steps", int(self.steps))  # a quoted count is a count, in manifests as well
        for option in OPTIONS:
            value = getattr(self, option)
            if value is not None and option not in self.entry.options:
                have = " and ".join(owners(option))
                raise ValueError(f"sampler.{option} {value} was given to {self.name}; it is for {have}: leave it out")
        if self.entry.check is not None:
            self.entry.check(**self.options)
        check_clip(self.clip)
        if self.threshold is not None:
            Threshold(self.threshold)  # refuses what is no share
            if self.clip != type(self).clip:
                raise ValueError(f"threshold {self.threshold:g} takes the place of clip {self.clip}: leave one out")

    @property
    def entry(self) -> Entry:
        """The sampler's entry in the table."""
        return SAMPLERS[self.name]

    @property
    def options(self) -> dict[str, Any]:
        """The sampler's own options, by name, those that are left as published at that value."""
        given = {option: getattr(self, option) for option in self.entry.options}
        return {name: self.entry.default(name) if value is None else value for name, value in given.items()}

    @property
    def clipping(self) -> Clip:
        """The bound or threshold of estimates of x_0."""
        return self.clip if self.threshold is None else Threshold(self.threshold)

    def levels(self, chain: ChainConfig) -> DiffusionChain:
        """The noise levels of a model's chain that the sampler visits.

        A plain count means each sampler's published spacing: ddpm spreads it over the whole chain, while all others
        leave the noisiest levels out (ddim up to half the chain's length). There alpha_bar is nearly 0, and tilting
        divides by its root: at a cosine schedule's last level by 5e-5. In continuous time the levels are even in time
        for every sampler.

        Raises:
            ValueError: as `sampling_chain`, and for more steps than the sampler's spacing finds levels.
        """
        if isinstance(self.steps, str) or chain.is_continuous:
            return sampling_chain(chain, str(self.steps))
        whole = make_chain(chain)
        return whole.shortened(self.entry.spacing(whole, self.steps))

    def warning(self, chain: DiffusionChain) -> str | None:
        """Reason to expect bad samples at these levels; None without one."""
        return None if self.entry.warning is None else self.entry.warning(chain, **self.options)

    def record(self) -> dict[str, Any]:
        """Plain values for a manifest: name, steps, and the sampler's own options with the numbers it computes with.

        eta stands there for every sampler, 0 where there is none: sample directories compare equal only so.
        """
        own = {name: value for name, value in self.options.items() if name not in GUIDANCE_OPTIONS}
        return {"name": self.name, "steps": self.steps, "eta": SAMPLERS["ddim"].default("eta")} | own

    def guidance_record(self) -> dict[str, Any]:
        """The options that say how it is guided and are not as published."""
        return {name: value for name, value in self.unusual_options().items() if name in GUIDANCE_OPTIONS}

    def unusual_options(self) -> dict[str, Any]:
        """The sampler's own options that are not as published."""
        return {name: value for name, value in self.options.items() if value != self.entry.default(name)}


OPTIONS = tuple(dict.fromkeys(option for entry in SAMPLERS.values() for option in entry.options))
"""Fields of `SamplerConfig` that only some samplers have."""


def owners(option: str) -> tuple[SamplerName, ...]:
    """The samplers that have an option."""
    return tuple(name for name, entry in SAMPLERS.items() if option in entry.options)


def make_sampler(config: SamplerConfig) -> Sampler:
    """The sampler that a config names, with its options."""
    return guided_sampler(partial(config.entry.function, **config.options), config.entry.guidance)


def make_particle_filter(config: SamplerConfig, count: int, weight: Weight) -> ParticleFilter:
    """Particles that follow the links of the sampler that a config names.

    Raises:
        ValueError: links without noise, which give weights no density, or guided at the mean.
    """
    for name, value in config.guidance_record().items():
        raise ValueError(
            f"guidance.particles {count} are guided at the state before each link; leave out sampler.{name} {value}"
        )
    link = config.entry.link(config.options)
    if link is None:
        own = "".join(f" with {name} {value}" for name, value in config.options.items())
        raise ValueError(
            f"guidance.particles {count} weighs samples by the density of the noise that each link draws, and "
            f"{config.name}{own} has none to weigh by; take ddpm, dpmpp_2m_sde, or ddim with sampler.eta 1"
        )
    return ParticleFilter(link, count, weight)


def check_clip(clip: float | None) -> None:
    """Refuse a bound that estimates of x_0 cannot be clamped to.

    Raises:
        ValueError: a bound that is not above 0.
    """
    if clip is not None and not clip > 0:  # NaN is not
        raise ValueError(f"clip is a bound above 0, or null; got {clip}")
