"""Timestep samplers of training: the link of each training sample, and the weight of its loss."""

from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from .chain import DiffusionChain, Step, TrainingChain, broadcast_like


@dataclass(frozen=True)
class Drawn:
    """The links of a batch of training samples, with the weights of their losses."""

    step: Step
    """One link a sample."""
    weight: Tensor | float = 1.0
    """(B,) 1 / (K p_k): multiplied by it, losses have the mean that they have on uniform links."""
    k: Tensor | None = None
    """(B,) int64 indices, where the sampler learns from their losses."""


class TimestepSampler(Protocol):
    """A distribution of links in training."""

    def drawn(self, u: Tensor, *, like: Tensor) -> Drawn:
        """Links for a batch like `like` (B, ...), by u (B,) float64 uniform in [0, 1)."""
        ...


@dataclass(frozen=True)
class UniformTimesteps:
    """Uniform noise levels."""

    chain: TrainingChain

    def drawn(self, u: Tensor, *, like: Tensor) -> Drawn:
        return Drawn(self.chain.drawn(u, like=like))


class LossSecondMoment:
    """Levels in proportion to the root of their losses' second moment (improved DDPM section 3.3, eq. 18).

    That makes the variance of the gradient least if a loss's root mean square says how large its gradient is. The
    moment is over the last `history_per_level` losses of a level; until every level has as many, all are drawn alike.
    """

    def __init__(self, chain: DiffusionChain, *, history_per_level: int = 10, uniform_prob: float = 0.001) -> None:
        """uniform_prob: share of the draws that stay uniform, so that no level is ever forgotten."""
        self.chain = chain
        self.uniform_prob = uniform_prob
        self.history = torch.full((len(chain), history_per_level), torch.nan, dtype=torch.float64)
        """(K, history_per_level) losses, oldest first; NaN before the first."""

    def probabilities(self) -> Tensor:
        """p_k (K,) float64, summing to 1."""
        if not bool(self.history.isfinite().all()):
            return torch.full((len(self.chain),), 1 / len(self.chain), dtype=torch.float64)
        root_mean_square = (self.history**2).mean(dim=1).sqrt()
        return (1 - self.uniform_prob) * root_mean_square / root_mean_square.sum() + self.uniform_prob / len(self.chain)

    def drawn(self, u: Tensor, *, like: Tensor) -> Drawn:
        """Links for a batch like `like` (B, ...), by the inverse of the distribution function at u (B,)."""
        p = self.probabilities()
        up_to = p.cumsum(dim=0)
        k = torch.searchsorted(up_to / up_to[-1], u.double(), right=True)
        weight = 1 / (len(p) * p[k])
        return Drawn(self.chain.at(k, like=like), broadcast_like(weight.to(like.dtype), like), broadcast_like(k, like))

    def learn(self, k: Tensor, losses: Tensor) -> None:
        """Remember the losses (B,) at indices k (B,), the later in the batch the newer, in place of the oldest."""
        length = self.history.shape[1]
        order = torch.argsort(k, stable=True)
        levels, counts = cast(tuple[Tensor, Tensor], torch.unique_consecutive(k[order], return_counts=True))  # pyright: ignore[reportUnknownMemberType]  # untyped
        place = torch.arange(len(k)) - (counts.cumsum(0) - counts).repeat_interleave(counts)  # among those of its level
        fresh = self.history.new_zeros(len(levels), int(counts.max()))
        fresh[torch.arange(len(levels)).repeat_interleave(counts), place] = losses.double()[order]
        newest = counts[:, None] + torch.arange(length)  # the last `length` of a level's old and fresh losses
        self.history[levels] = torch.cat([self.history[levels], fresh], dim=1).gather(1, newest)
