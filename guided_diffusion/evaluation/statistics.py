"""Mean and covariance of features in float64, accumulated over batches and processes.

Plain sums of x and x x^T lose digits as the square of mean over spread, which no extractor promises to keep small; so
moments about the mean are merged.
"""

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors


@dataclass(frozen=True)
class Gaussian:
    """Mean (D,) and covariance (D, D) of a set of features, float64. count: how many features, if that is known."""

    mean: Tensor
    cov: Tensor
    count: int | None = None


@dataclass(frozen=True)
class Moments:
    """Count () int64, mean (D,) and sum of squared deviations (D, D), float64, of a set of features."""

    count: Tensor
    mean: Tensor
    scatter: Tensor


def moments(features: Tensor) -> Moments:
    """Moments of features (N, D) of any dtype; N = 0 gives zeros, features that are not finite a ValueError."""
    if not torch.isfinite(features).all():
        raise ValueError("the extractor gave features that are not finite; its weights or its precision are at fault")
    features = features.double()
    mean = features.mean(dim=0) if len(features) else features.new_zeros(features.shape[1])
    deviations = features - mean
    return Moments(torch.tensor(len(features), device=features.device), mean, deviations.T @ deviations)


def merged(first: Moments, second: Moments) -> Moments:
    """Moments of the union of two sets (Chan, Golub and LeVeque 1979).

    Never subtracts large numbers, so that it needs no guess of the mean; the order of merging matters at rounding only.
    """
    count = first.count + second.count
    share = second.count.double() / count.clamp_min(1)
    delta = second.mean - first.mean
    between = torch.outer(delta, delta) * (first.count * share)
    return Moments(count, first.mean + share * delta, first.scatter + second.scatter + between)


def gaussian(features: Moments) -> Gaussian:
    """Mean and covariance, divisor N - 1; a ValueError for fewer than two features."""
    count = int(features.count)
    if count < 2:
        raise ValueError(f"a covariance needs at least 2 images, got {count}; give more")
    return Gaussian(features.mean, features.scatter / (count - 1), count)


def of_all_processes(own: Moments) -> Moments:
    """Moments of the union of all processes' sets; every one of them must call."""
    parts = zip(gathered(own.count), gathered(own.mean), gathered(own.scatter), strict=True)
    return reduce(merged, (Moments(*part) for part in parts))


def gathered(values: Tensor) -> list[Tensor]:
    """The values of all processes, process 0's first; first dimensions may differ. Every process must call."""
    return gather_all_tensors(values) if torch.distributed.is_initialized() else [values]
