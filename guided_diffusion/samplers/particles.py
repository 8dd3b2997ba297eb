"""Exact guidance: samples of p(x_0) p(y | x_0)^s by weighted and resampled particles.

Guidance adds s grad log c_t, c_t = p(y | x_t), to the score. Unless s is 0 or 1 that does not lead to p(x_0) p(y |
x_0)^s, because the marginals in proportion to q_t c_t^s are no diffusion's. Here guided links propose, and each
particle's weight makes up for the difference. docs/guidance.md derives both weights.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..diffusion.chain import DiffusionChain, Step, broadcast_like
from ..diffusion.denoiser import Denoiser, Estimate
from ..diffusion.noise import Noise
from ..guidance.twist import Twist, TwistAt, squared
from .sampler import LastLink, Link, OnStep

Weight = Literal["twisted", "feynman_kac"]
"""twisted (after 2306.17775): exact for the sampler's own chain and the classifier of its last level as particles grow
in number, whatever the classifier is in between. feynman_kac (2503.02819): exact as links shrink, where score and
classifier are."""


@dataclass(frozen=True)
class Weighted:
    """Samples drawn from their particles by weight."""

    x_0: Tensor
    """(B, C, H, W); not a number where no particle has a finite weight."""
    log_mean_weight: Tensor
    """(B,) float64, nats: each an estimate of log Z(s), Z(s) = E_{p(x_0)} p(y | x_0)^s; of Z itself without bias."""
    ess: Tensor
    """(K, B) effective number of particles over their number at each level, the noisiest first, before resampling."""
    nats: Tensor
    """(K - 1, B) 1/2 term.S.term of each link but the last, on average over particles."""


@dataclass(frozen=True)
class State:
    """Particles at one noise level."""

    x: Tensor
    """(B * count, C, H, W), a sample's particles in a row."""
    log_w: Tensor
    """(B, count) float64 logarithms of their weights; exp has the mean Z_t(s) in expectation."""
    at: TwistAt | None = None
    """The twist at x; None where it does not act."""
    last: LastLink | None = None
    """The link that led here."""
    nats: Tensor | float = 0.0
    """(B * count,) 1/2 term.S.term of that link."""

    def weighted(self, log_ratio: Tensor) -> "State":
        """Weights times exp of log_ratio (B * count,)."""
        return replace(self, log_w=self.log_w + log_ratio.reshape(self.log_w.shape))

    def resampled(self, u: Tensor) -> "State":
        """Particles by their weights, where fewer than half are effective; u: (B,) uniform in [0, 1)."""
        chosen, log_w = systematic(self.log_w, u)
        return State(self.x[chosen], log_w, self.at and self.at.of(chosen), self.last and self.last.of(chosen))


@dataclass(frozen=True)
class ParticleFilter:
    """Sequential Monte Carlo that proposes by a sampler's links, N(mean, S), shifted by S times the twist's gradient.

    Of all shifts that one suits a link best: it is the optimal proposal where the twist is linear. Tilting x_0 would
    move the mean farther than S, at the least noisy levels many times, and weights would vary accordingly.
    """

    link: Link
    count: int
    """Particles of each sample."""
    weight: Weight = "twisted"

    @torch.no_grad()
    def __call__(
        self,
        denoiser: Denoiser,
        chain: DiffusionChain,
        x_T: Tensor,
        noise: Noise,
        *,
        twist: Twist,
        choices: Callable[[], Tensor],
        on_step: OnStep | None = None,
    ) -> Weighted:
        """Samples from x_T (B * count, C, H, W) standard normal, a sample's particles in a row.

        twist: for that many states. choices: draws (B,) uniform in [0, 1), for resampling and for the one particle that
        is kept. on_step is shown each sample's first particle, not a number where any is not finite. The last link
        draws no noise and is left unguided, or its weight would have no density; the classifier is asked about x_0 at
        the chain's first timestep.
        """
        ess, nats = list[Tensor](), list[Tensor]()
        state = State(x_T, torch.zeros(len(x_T) // self.count, self.count, dtype=torch.float64, device=x_T.device))
        for k in reversed(range(len(chain))):
            step = chain.at(k, like=x_T)
            state = self._arrived(state, twist, step, is_active=twist.is_active(step))
            ess.append(effective_share(state.log_w))
            state = state.resampled(broadcast_like(choices(), x_T))
            estimate = denoiser(state.x, step)
            state = self._moved(state, estimate, step, noise if k > 0 else None)
            nats.append((state.log_w.new_zeros(len(x_T)) + state.nats).reshape(-1, self.count).mean(dim=1))
            if on_step is not None:
                first = slice(None, None, self.count)
                x = state.x[first].masked_fill(is_broken(state.x, self.count), math.nan)
                on_step(k, x, replace(estimate, x0=estimate.x0[first]))
        state = self._arrived(state, twist, chain.at(0, like=x_T), is_active=False)
        return drawn(state, broadcast_like(choices(), x_T), torch.stack(ess), torch.stack(nats[:-1]))

    def _arrived(self, state: State, twist: Twist, step: Step, *, is_active: bool) -> State:
        """Particles weighted by the twist where a link led them, or where guidance begins."""
        leaves = state.at is not None and not is_active
        if not is_active and not (leaves and self.weight == "twisted"):
            return replace(state, at=None)
        at = twist(state.x, step, ends=leaves)
        if state.at is None:
            return replace(state, at=at).weighted(at.value)
        ratio = at.value - state.at.value if self.weight == "twisted" else torch.zeros_like(at.value)
        return replace(state, at=at if is_active else None).weighted(ratio)

    def _moved(self, state: State, estimate: Estimate, step: Step, noise: Noise | None) -> State:
        """Particles after a link, guided where the twist acts; without noise after the last link, unguided."""
        mean, var = self.link(state.x, estimate, step, state.last)
        after = replace(state, last=LastLink(estimate.x0, step), nats=0.0)
        if noise is None:
            return replace(after, x=mean)
        z = noise(state.x)
        if state.at is None:
            return replace(after, x=mean + var**0.5 * z)
        term = state.at.term
        if self.weight == "feynman_kac":
            ratio = state.at.drift(var)
        else:  # N(mean, S) over N(mean + S term, S) at x_s
            ratio = -(var**0.5 * term.double() * z).flatten(1).sum(dim=1) - 0.5 * squared(term, var)
        x_s = mean + var * term + var**0.5 * z
        return replace(after, x=x_s, nats=0.5 * squared(term, var)).weighted(ratio)


def is_broken(x: Tensor, count: int) -> Tensor:
    """(B, 1, 1, 1) bool, True for a sample with a value among its `count` particles that is not finite."""
    finite = x.isfinite().reshape(len(x) // count, -1).all(dim=1)
    return ~finite.reshape(-1, *(1,) * (x.ndim - 1))


def effective_share(log_w: Tensor) -> Tensor:
    """1 / (K sum of w^2) (B,), the effective number of K particles over K, of log-weights (B, K)."""
    return 1 / (log_w.softmax(dim=1).square().sum(dim=1) * log_w.shape[1])


def cumulative(log_w: Tensor) -> Tensor:
    """Cumulative sums (B, K) of normalised weights; a product, because cumsum on GPUs is not deterministic."""
    return log_w.softmax(dim=1) @ log_w.new_ones(log_w.shape[1], log_w.shape[1]).triu()


def systematic(log_w: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Systematic resampling of each sample's K particles, where fewer than K / 2 are effective.

    log_w: (B, K). u: (B,) uniform in [0, 1). Returns the rows (B * K,) int64 of the particles that remain, and their
    log-weights (B, K), whose mean weight is what it was. Nothing is read from the device.
    """
    count = log_w.shape[1]
    own = torch.arange(count, device=log_w.device)
    places = (own + u[:, None]) / count
    ancestors = torch.searchsorted(cumulative(log_w), places).clamp(max=count - 1)
    is_poor = (effective_share(log_w) < 0.5)[:, None]
    even = (log_w.logsumexp(dim=1, keepdim=True) - math.log(count)).expand_as(log_w)
    rows = torch.where(is_poor, ancestors, own) + count * torch.arange(len(log_w), device=log_w.device)[:, None]
    return rows.flatten(), torch.where(is_poor, even, log_w)


def drawn(state: State, u: Tensor, ess: Tensor, nats: Tensor) -> Weighted:
    """One particle of each sample, by weight; u: (B,) uniform in [0, 1)."""
    count = state.log_w.shape[1]
    log_mean = state.log_w.logsumexp(dim=1) - math.log(count)
    chosen = torch.searchsorted(cumulative(state.log_w), u[:, None]).clamp(max=count - 1).flatten()
    x_0 = state.x[chosen + count * torch.arange(len(chosen), device=chosen.device)]
    broken = is_broken(state.x, count)  # a particle that is not finite is not dropped
    x_0 = x_0.masked_fill(broken | ~log_mean.isfinite().reshape(broken.shape), math.nan)
    return Weighted(x_0, log_mean, ess, nats)
