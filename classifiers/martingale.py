"""The martingale test of a classifier of noisy images: consistency between noise levels.

Let x_s be less noisy than x_t, on one noising path of an image. The exact p(y | x_t) is a martingale along it,

    E[p(y | x_s) | x_t] = p(y | x_t) for every class y,

and the test compares the means of p(y | x_s) and p(y | x_t) in bins of p(y | x_t), over all images and classes. It
needs no label: a bin's difference is the calibration error of p(y | x_t) less that of p(y | x_s), both in this bin. If
p(y | x_s) is exact, that is the calibration error at t. In general the test also sees a level that lost what a noisier
one knows, though each is calibrated. It does not see errors that all levels share, or that cancel within a bin.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_BINS = 10
LEAST_EVENTS = 10.0
"""Least sum of p (1 - p) in a bin: about so many of its (image, class) are expected to turn out otherwise than held."""


@dataclass(frozen=True, kw_only=True)
class Bin:
    """All (image, class) whose p(y | x_t) lies in an interval."""

    count: int
    p_t: float
    """Mean p(y | x_t)."""
    p_s: float
    """Mean p(y | x_s) of the same images and classes."""
    standard_error: float
    """Of p_s - p_t for an exact classifier."""

    @property
    def z(self) -> float:
        """p_s - p_t in standard errors."""
        return (self.p_s - self.p_t) / self.standard_error if self.standard_error else 0.0


def martingale_bins(log_p_s: Tensor, log_p_t: Tensor) -> tuple[Bin, ...]:
    """Bins by p(y | x_t), in ascending order, of equal sums of p (1 - p): at least two and at most MOST_BINS.

    log_p_s, log_p_t: (N, num_classes), nats, at x_s and x_t of one noising path of each of N images, t the noisier.

    The classes of an image are not independent, so differences are added up image by image: their squares give the
    variance, exactly for a martingale. At least the sum's own size is taken for it, that of a Poisson variable, since
    rare images whose probability would have changed by 1 may be absent.
    """
    p_s, p_t = log_p_s.double().exp(), log_p_t.double().exp()
    ordered = p_t.flatten().sort().values
    events = (ordered * (1 - ordered)).cumsum(dim=0)
    num_bins = min(MOST_BINS, max(2, int(float(events[-1]) / LEAST_EVENTS)))
    edges = ordered[torch.searchsorted(events, events[-1] * torch.arange(1, num_bins) / num_bins)]
    index = torch.bucketize(p_t, edges)
    differences = torch.zeros(len(p_t), num_bins, dtype=torch.float64).scatter_add(1, index, p_s - p_t)
    counts, total = index.flatten().bincount(minlength=num_bins), differences.sum(dim=0)
    variance = torch.maximum(differences.square().sum(dim=0), total.abs())
    sums_t = torch.zeros(num_bins, dtype=torch.float64).index_add(0, index.flatten(), p_t.flatten())
    return tuple(
        Bin(
            count=int(count),
            p_t=float(sums_t[b] / count),
            p_s=float((sums_t[b] + total[b]) / count),
            standard_error=math.sqrt(float(variance[b])) / int(count),
        )
        for b, count in enumerate(counts)
        if count
    )
