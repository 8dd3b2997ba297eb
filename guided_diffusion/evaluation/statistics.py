"""Mean and covariance of features in float64, and all rows, accumulated over batches and processes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..distributed import gathered_rows


@dataclass(frozen=True)
class Gaussian:
    """Mean (D,) and covariance (D, D) of a set of features, float64. count: how many features, if that is known."""

    mean: Tensor
    cov: Tensor
    count: int | None = None


@dataclass(frozen=True)
class Moments:
    """Count, mean (D,) and sum of squared deviations (D, D), float64, of a set of features."""

    count: int
    mean: Tensor
    scatter: Tensor


def moments(features: Tensor) -> Moments:
    """Moments of features (N, D) of any dtype; N = 0 gives zeros."""
    features = features.double()
    mean = features.mean(dim=0) if len(features) else features.new_zeros(features.shape[1])
    deviations = features - mean
    return Moments(len(features), mean, deviations.T @ deviations)


def merged(first: Moments, second: Moments) -> Moments:
    """Moments of the union of two sets (Chan, Golub and LeVeque 1979).

    Never subtracts large numbers, so that it needs no guess of the mean; the order of merging matters at rounding only.
    """
    count = first.count + second.count
    share = second.count / max(count, 1)
    delta = second.mean - first.mean
    between = torch.outer(delta, delta) * (first.count * share)
    return Moments(count, first.mean + share * delta, first.scatter + second.scatter + between)


def gaussian(features: Moments) -> Gaussian:
    """Mean and covariance, divisor N - 1; a ValueError for fewer than two features."""
    if features.count < 2:
        raise ValueError(f"a covariance needs at least 2 images, got {features.count}; give more")
    return Gaussian(features.mean, features.scatter / (features.count - 1), features.count)


def check_finite(features: Tensor) -> None:
    """Refuse, by a ValueError, features that are not finite. The host waits for the device here."""
    if not torch.isfinite(features).all():
        raise ValueError("the extractor gave features that are not finite; its weights or its precision are at fault")


class GaussianAccumulator:
    """Mean and covariance of features (N, D) that arrive in batches, on one process or several.

    Plain sums of x and x x^T lose digits as the square of mean over spread, which no extractor promises to keep small;
    so the moments of batches are merged.
    """

    def __init__(self, num_features: int, *, device: torch.device | str = "cpu") -> None:
        self._total = moments(torch.zeros(0, num_features, device=device))

    def update(self, features: Tensor) -> None:
        """Add features (N, D); a ValueError if one is not finite, on other devices than CPUs only at the end."""
        if features.device.type == "cpu":
            check_finite(features)
        self._total = merged(self._total, moments(features))

    def gaussian(self) -> Gaussian:
        """Statistics of everything added, by all processes; every one of them must call."""
        counts = gathered_rows(torch.tensor([self._total.count], device=self._total.mean.device))
        means, scatters = gathered_rows(self._total.mean), gathered_rows(self._total.scatter)
        total, *others = map(Moments, map(int, counts), means, scatters)
        for other in others:
            total = merged(total, other)
        check_finite(total.mean)  # it is not, if one of the features was not
        return gaussian(total)


class RowAccumulator:
    """All rows (N, D) that arrive in batches, process 0's first, each process's in order of arrival."""

    def __init__(self) -> None:
        self._rows: list[Tensor] = []

    def update(self, rows: Tensor) -> None:
        """Add rows (N, D); every process must add some, if only of length 0, so that their width is known to it."""
        self._rows.append(rows)

    def compute(self, device: torch.device | str = "cpu") -> Tensor:
        """Everything added, by all processes: (N, D) on `device`; every process must call."""
        self._rows = [torch.cat([rows.to(device) for rows in self._rows])]  # frees the batches
        of_each = gathered_rows(self._rows[0])
        return of_each[0] if len(of_each) == 1 else torch.cat(of_each)
