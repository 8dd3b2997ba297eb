"""Mean and covariance of features in float64, and all rows, accumulated over batches and processes."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


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
    """Moments of features (N, D) of any dtype; N = 0 gives zeros."""
    features = features.double()
    mean = features.mean(dim=0) if len(features) else features.new_zeros(features.shape[1])
    deviations = features - mean
    count = torch.full((), len(features), device=features.device)  # filled in: the host does not wait for the device
    return Moments(count, mean, deviations.T @ deviations)


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


def check_finite(features: Tensor) -> None:
    """Refuse, by a ValueError, features that are not finite. The host waits for the device here."""
    if not torch.isfinite(features).all():
        raise ValueError("the extractor gave features that are not finite; its weights or its precision are at fault")


class GaussianAccumulator(Metric):
    """Mean and covariance of features (N, D) that arrive in batches, on one process or several.

    Plain sums of x and x x^T lose digits as the square of mean over spread, which no extractor promises to keep small;
    so the states are merged pairwise. They carry no reduction: after synchronising there is one entry per process.
    """

    full_state_update = False
    count: Tensor
    mean: Tensor
    scatter: Tensor

    def __init__(self, num_features: int, **settings: Any) -> None:  # settings: torchmetrics' own, passed on
        super().__init__(**settings)
        self.set_dtype(torch.float64)
        self.add_state("count", torch.tensor(0), dist_reduce_fx=None)
        self.add_state("mean", torch.zeros(num_features, dtype=torch.float64), dist_reduce_fx=None)
        self.add_state("scatter", torch.zeros(num_features, num_features, dtype=torch.float64), dist_reduce_fx=None)

    def update(self, features: Tensor) -> None:
        """Add features (N, D); a ValueError if one is not finite, on other devices than CPUs only at the end."""
        if features.device.type == "cpu":
            check_finite(features)
        total = merged(Moments(self.count, self.mean, self.scatter), moments(features))
        self.count, self.mean, self.scatter = total.count, total.mean, total.scatter

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """Count, mean and scatter of everything added, by all processes. torchmetrics makes them scalars if D is 1."""
        scatters = self.scatter if self.scatter.ndim == 3 else self.scatter[None]
        parts = zip(torch.atleast_1d(self.count), torch.atleast_2d(self.mean), scatters, strict=True)
        total, *others = (Moments(*part) for part in parts)
        for other in others:
            total = merged(total, other)
        return total.count, total.mean, total.scatter

    def gaussian(self) -> Gaussian:
        """Statistics of everything added, by all processes; every one of them must call."""
        count, mean, scatter = self.compute()
        check_finite(mean)  # it is not, if one of the features was not
        return gaussian(Moments(count, torch.atleast_1d(mean), torch.atleast_2d(scatter)))


class RowAccumulator(Metric):
    """All rows (N, D) that arrive in batches, process 0's first, each process's in order of arrival."""

    full_state_update = False
    rows: list[Tensor] | Tensor

    def __init__(self, **settings: Any) -> None:  # settings: torchmetrics' own, passed on
        super().__init__(**settings)
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, rows: Tensor) -> None:
        """Add rows (N, D); every process must add some, if only of length 0, so that their width is known to it."""
        assert isinstance(self.rows, list)  # a tensor only while synchronised, inside compute
        self.rows.append(rows)

    def compute(self) -> Tensor:
        """Everything added, by all processes: (N, D)."""
        return self.rows if isinstance(self.rows, Tensor) else torch.cat(self.rows)
