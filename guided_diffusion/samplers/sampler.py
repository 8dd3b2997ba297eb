"""The sampler protocol, and how a score term guides a sampler."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from ..diffusion.chain import DiffusionChain, Step
from ..diffusion.denoiser import Denoiser, Estimate
from ..diffusion.noise import Noise
from ..guidance import ScoreTerm, tilted

OnStep = Callable[[int, Tensor, Estimate], None]
"""(k, x, estimate) after the link at index k: the new state and the estimate it was made from."""

GuidancePlace = Literal["mean_shift", "tilted"]
"""Place of a score term: the mean of each link (ADM Algorithm 1) or the estimate of x_0 (Algorithm 2)."""


@dataclass(frozen=True)
class LastLink:
    """The link before: its estimate of x_0, and its step."""

    x0: Tensor
    step: Step

    def of(self, states: Tensor) -> "LastLink":
        """That of some of the states, (B,) int64."""
        return LastLink(self.x0[states], self.step)


class Link(Protocol):
    """A link of a sampler that draws noise: p(x_s | x_t) = N(mean, var)."""

    def __call__(
        self, x_t: Tensor, estimate: Estimate, step: Step, last: LastLink | None
    ) -> tuple[Tensor, Tensor | float]:
        """The mean (B, C, H, W) and the variance; of the last link the mean alone counts."""
        ...


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


def in_turn(first: OnStep, second: OnStep) -> OnStep:
    """Both, one after the other."""

    def on_step(k: int, x: Tensor, estimate: Estimate) -> None:
        first(k, x, estimate)
        second(k, x, estimate)

    return on_step


def guided_sampler(function: Callable[..., Tensor], place: GuidancePlace) -> Sampler:
    """A sampling function as a `Sampler`: a score term becomes its `mean_shift`, or tilts the denoiser it is given."""

    def sample(
        denoiser: Denoiser,
        chain: DiffusionChain,
        x_T: Tensor,
        noise: Noise,
        *,
        guidance: ScoreTerm | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        if place == "mean_shift":
            return function(denoiser, chain, x_T, noise, mean_shift=guidance, on_step=on_step)
        guided = denoiser if guidance is None else tilted(denoiser, guidance)
        return function(guided, chain, x_T, noise, on_step=on_step)

    return sample
