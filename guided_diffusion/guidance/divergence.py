"""Divergence-regularised classifier guidance (2511.05844).

The guide is log p(y | x_t) - weight * D(q, p), p the classifier's distribution of the classes and q the label's,
smoothed: smoothing / C for each of C classes and 1 - smoothing more for y. D pulls p towards q from both sides, so
that the sample is not driven to a certainty beyond that of q.
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import one_hot

from ..diffusion.chain import Step
from .score import LogProb, Scale, ScoreTerm, at_label, score_of

Divergence = Callable[[Tensor, Tensor], Tensor]
"""(log q, log p), (B, C) each -> (B,), nats."""


def forward_kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(q || p). Its negative gradient is sum_c (q_c - p_c) grad f_c, for log p = log softmax f."""
    return (log_q.exp() * (log_q - log_p)).sum(dim=1)


def divergence_score(
    divergence: Divergence, log_prob: LogProb, y: Tensor, scale: Scale, *, weight: float = 1.0, smoothing: float = 0.3
) -> ScoreTerm:
    """scale * grad_{x_t} [log p(y | x_t) - weight * divergence(q, p)] for labels y (B,) int64.

    The paper also takes KL(p || q) and Jensen-Shannon, which differ little from the plain score (docs/guidance.md).

    Raises:
        ValueError: a negative weight, or a smoothing that is not between 0 and 1.
    """
    if not (weight >= 0 and 0 < smoothing < 1):
        raise ValueError(
            f"a divergence needs a weight of at least 0 and a smoothing of the label above 0 and below 1; got weight "
            f"{weight:g} and smoothing {smoothing:g}"
        )

    def log_density(x_t: Tensor, step: Step) -> Tensor:
        log_p = log_prob(x_t, step.t)
        target = one_hot(y, log_p.shape[1]).to(log_p.dtype)
        log_q = ((1 - smoothing) * target + smoothing / log_p.shape[1]).log()
        return at_label(log_p, y) - weight * divergence(log_q, log_p)

    return score_of(log_density, scale)
