"""The log-density by which particles are tilted and weighted, of one classifier or several, in an interval of noise."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..diffusion.chain import Step
from .interval import is_inside
from .score import LogDensity, Scale, times, value_and_gradient


@dataclass(frozen=True)
class TwistAt:
    """A twist at a batch of states."""

    value: Tensor
    """(B,) float64, nats."""
    slopes: tuple[Tensor, ...]
    """grad log c_i of each part, (B, C, H, W)."""
    scales: tuple[Scale, ...]

    @property
    def term(self) -> Tensor:
        """The gradient of the value, sum of s_i grad log c_i: a score term."""
        terms = [times(scale, slope) for scale, slope in zip(self.scales, self.slopes, strict=True)]
        return torch.stack(terms).sum(dim=0) if len(terms) > 1 else terms[0]

    def of(self, states: Tensor) -> "TwistAt":
        """The twist at some of the states, (B,) int64, of which each stays with its sample and so with its scale."""
        return replace(self, value=self.value[states], slopes=tuple(slope[states] for slope in self.slopes))

    def drift(self, var: Tensor | float) -> Tensor:
        """1/2 (term.S.term - sum of s_i g_i.S.g_i) (B,), S the variance: s (s - 1) / 2 g.S.g of one classifier.

        The part of log exp V_t / q_t's own martingale that is no noise: Ito's formula for a product of powers of
        martingales c_i(x_t) along the guided path.
        """
        alone = [squared(slope, var) * scale for slope, scale in zip(self.slopes, self.scales, strict=True)]
        return 0.5 * (squared(self.term, var) - torch.stack(alone).sum(dim=0))


@dataclass(frozen=True)
class Twist:
    """V_t(x_t) = sum of s_i(t) log c_i(x_t): particles at x_t follow q_t exp V_t.

    exp V_t is the twisting function of twisted diffusion (Wu et al., 2306.17775), here of classifiers of noisy images.
    The best one is E[c(x_0)^s | x_t]. For s > 1 it lies between c_t^s (Jensen) and c_t (c <= 1): near the first where
    the class is certain, near the second where it is not.
    """

    parts: tuple[tuple[LogDensity, Scale], ...]
    """Each log c_i with its s_i, a number or (B,)."""
    rises: bool = True
    """s(t) = 1 + (s - 1) alpha_bar for s > 1, in place of s at every level, so that it reaches s where tilting ends."""
    sigma_min: float = 0.0
    sigma_max: float = math.inf
    """Noise levels at which it acts, as for `within`."""

    def is_active(self, step: Step) -> bool:
        """True at a noise level that is guided."""
        return is_inside(step, self.sigma_min, self.sigma_max)

    def __call__(self, x_t: Tensor, step: Step, *, ends: bool = False) -> TwistAt:
        """The value and slopes at x_t (B, C, H, W); ends: tilting ends here, where s(t) is s."""
        value, slopes = torch.zeros(len(x_t), dtype=torch.float64, device=x_t.device), list[Tensor]()
        scales = tuple(scale if ends or not self.rises else risen(scale, step) for _, scale in self.parts)
        for (log_density, _), scale in zip(self.parts, scales, strict=True):
            part, slope = value_and_gradient(lambda x, of=log_density: of(x, step), x_t)
            value = value + scale * part.double()
            slopes.append(slope)
        return TwistAt(value, tuple(slopes), scales)


def risen(scale: Scale, step: Step) -> Scale:
    """1 + (s - 1) alpha_bar where s > 1, else s."""
    if isinstance(scale, Tensor):
        return torch.where(scale > 1, 1 + (scale - 1) * float(step.alpha_bar), scale)
    return 1 + (scale - 1) * float(step.alpha_bar) if scale > 1 else scale


def squared(x: Tensor, var: Tensor | float) -> Tensor:
    """x.S.x of each sample (B,) float64, S = var the variance, one number or one of each pixel."""
    return (var * x.double() * x).flatten(1).sum(dim=1)
