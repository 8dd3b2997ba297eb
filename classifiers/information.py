"""Information that guidance by a classifier spends and gains, nats, on real images noised along its chain.

Guidance at scale 1 moves the mean of a link x_t -> x_s by S g, with S its variance and g = grad log p(y | x_t). The KL
divergence between guided and unguided paths is E[1/2 sum S |g|^2] on guided paths (Girsanov's theorem). Those of an
exact classifier are distributed as noised images of class y, so that no sampling is needed. With small links

    d E[log p(y | x_t)] / d log alpha_bar = 1/2 E |grad log p(y | x_t)|^2,

since KL(q(x_t | y) || q(x_t)) = E[log p(y | x_t) / p(y)] changes at this rate (de Bruijn's identity). So an exact
classifier spends between two noise levels what its mean log p(y | x_t) gains there, mean log p(y | x_0) / p(y) in all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from guided_diffusion.diffusion.chain import DiffusionChain


@dataclass(frozen=True, kw_only=True)
class Information:
    """Nats of guidance at scale 1 over the whole chain, means over the images."""

    spent: float
    """1/2 sum_k beta_k |grad log p(y | x_t)|^2 over all links of the chain."""
    standard_error: float
    """Of `spent`."""
    known: float
    """log p(y | x_t) / p(y) at the least noisy level, which an exact classifier spends."""
    ceiling: float
    """log 1 / p(y), the most that can be known. p(y): frequencies of the classes among the images."""


def link_weights(chain: DiffusionChain, links: Sequence[int]) -> Tensor:
    """Weights (L, L) float64 of |g|^2 at the L measured links in 1/2 sum_k beta_k |g_k|^2, over links of the chain.

    Row j sums over the links after links[j - 1] up to links[j]. beta_k is the variance of a link of the unshortened
    chain. |g|^2 is linear in the index between measured links, and constant before the first and after the last.
    """
    measured, k = torch.tensor(links), torch.arange(len(chain))
    above = torch.searchsorted(measured, k).clamp(max=len(measured) - 1)
    below = (above - 1).clamp(min=0)
    share = ((k - measured[below]) / (measured[above] - measured[below]).clamp(min=1)).clamp(0, 1).double()
    half_beta = 0.5 * (1 - chain.alpha_bar / torch.cat([chain.alpha_bar.new_ones(1), chain.alpha_bar[:-1]]))
    weights = torch.zeros(len(measured), len(measured), dtype=torch.float64)
    weights.index_put_((above, below), half_beta * (1 - share), accumulate=True)
    return weights.index_put_((above, above), half_beta * share, accumulate=True)


def spent_information(squared_gradients: Tensor, weights: Tensor, *, log_likelihood: float, y: Tensor) -> Information:
    """The information spent by gradients of squared norms (N, L), with `link_weights`, on images of classes y (N,).

    log_likelihood: mean log p(y | x_t) at the least noisy level, nats.
    """
    by_image = squared_gradients @ weights.sum(dim=0)
    frequency = y.bincount().double() / len(y)
    ceiling = float(-torch.xlogy(frequency, frequency).sum())
    return Information(
        spent=float(by_image.mean()),
        standard_error=float(by_image.std()) / math.sqrt(len(y)) if len(y) > 1 else 0.0,
        known=log_likelihood + ceiling,
        ceiling=ceiling,
    )
