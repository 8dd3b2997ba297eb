"""How far to trust a Fréchet distance: what it would be of infinitely many samples, and how it varies between sets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import linregress
from torch import Tensor

from ..statistics import Gaussian
from .frechet import check_features, frechet_distance

# Features in float64 at once, 64 MiB of Inception's.
_BLOCK_ROWS = 4096
# Resampled within classes; of 20, their variance is 5 % too small.
_FEWEST_OF_A_CLASS = 20


@dataclass(frozen=True, kw_only=True)
class Extrapolation:
    """A Fréchet distance as a line over 1 / N.

    distance: the line at infinitely many samples. standard_error: of that, as the points scatter about the line; it
    knows nothing of the scatter between one set of samples and another. sizes, distances: the points.
    """

    distance: float
    standard_error: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Where a Fréchet distance lies.

    low, high: bounds of what sets of as many samples have on average. standard_error: standard deviation of the
    distance between such sets. distances: of the resampled sets, with the bias that repeated samples add.
    """

    low: float
    high: float
    standard_error: float
    distances: tuple[float, ...]


def extrapolated_frechet_distance(
    generated: Tensor, real: Gaussian, *, classes: Tensor | None = None, points: int = 15, seed: int = 0
) -> Extrapolation:
    """The Fréchet distance of infinitely many samples (FID-infinity, Chong and Forsyth 2020), from (N, D) features.

    The distance of n samples exceeds that of their distribution by a bias in proportion to 1 / n. So the distances of
    random subsets, of sizes evenly spaced from max(N / 10, 2 (D + 1)) to N, are fitted by a line over 1 / n, and its
    intercept has no bias of the generated side; that of the real side, which stays as it is, remains. Below D + 1
    samples the covariance is singular and the law another, and just above the bias still exceeds it. What that leaves
    in the intercept is up to a tenth of the bias, with the opposite sign (`benchmarks/confidence.py`).

    classes: (N,) class numbers of samples that were asked for in fixed numbers of each; every subset then holds the
    classes in the set's proportions. Random proportions would move small subsets further than the whole set, and the
    line would lead to far too small a distance. None: drawn without regard to classes.

    Every point costs a covariance (n D^2 multiplications, in float64 on the features' device) and a Fréchet distance
    (of the order of D^3, on the CPU). Raises ValueError for fewer than 4 (D + 1) features.
    """
    check_features(generated, name="generated")
    count, dimensions = generated.shape
    if points < 3:
        raise ValueError(f"a line and its error need at least 3 points, got {points}")
    smallest = max(count // 10, 2 * (dimensions + 1))
    if count < 2 * smallest:
        raise ValueError(
            f"extrapolation needs at least {2 * smallest} generated images, four for each of the {dimensions} features "
            f"and four more, got {count}; generate more, or leave the extrapolation out"
        )
    sizes = np.linspace(smallest, count, points).round().astype(int)
    draws = np.random.default_rng(seed)
    groups = _groups(count, classes)
    distances = [_resampled_distance(generated, _mixed(groups, draws)[:size], real) for size in sizes]
    # Typed as a tuple, of which the error of the intercept is no part.
    line: Any = linregress(1 / sizes, distances)
    return Extrapolation(
        distance=float(line.intercept),
        standard_error=float(line.intercept_stderr),
        sizes=tuple(sizes.tolist()),
        distances=tuple(distances),
    )


def bootstrap_frechet_distance(
    generated: Tensor,
    real: Gaussian,
    *,
    resamples: int,
    classes: Tensor | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    on_resample: Callable[[], object] | None = None,
) -> Interval:
    """A bootstrap interval around the Fréchet distance of (N, D) features, for the chance in drawing these N samples.

    Drawing N of the N with replacement repeats some and misses others, which adds as much bias again as N samples have.
    So it is the spread of the resampled distances that counts, not their place: the interval is the distance of the set
    itself plus the quantiles of (resampled - mean of resampled). It holds the average distance of sets of N samples,
    bias included, with the given confidence; two such sets differ by sqrt(2) standard errors. The real side
    stays as it is: its images count as given, not as drawn.

    Of few samples the interval is too wide: on Gaussians of 64 dimensions (`benchmarks/confidence.py`) the standard
    error is a tenth too large for 25 D samples (as 50,000 are of Inception) and for 50 D, half for 10 D, and 1.9 times
    what it should be for 5 D.

    classes: (N,) class numbers of samples that were asked for in fixed numbers of each, which resampled sets then keep.
    n samples of a class, drawn again, vary by (n - 1) / n of what they should; so with fewer than 20 of some class, as
    with None, samples are drawn without regard to classes, which makes the interval wider.

    Every resampling costs a covariance (0.63 N D^2 multiplications, in float64 on the features' device) and a Fréchet
    distance (of the order of D^3, on the CPU). on_resample: called after each. Raises ValueError for bad settings.
    """
    check_features(generated, name="generated")
    if resamples < 2 or not 0 < confidence < 1:
        raise ValueError(f"an interval needs 2 resamplings and 0 < confidence < 1, got {resamples} and {confidence}")
    count = len(generated)
    itself = _resampled_distance(generated, np.arange(count), real)
    draws = np.random.default_rng(seed)
    groups = _groups(count, classes)
    if min(map(len, groups)) < _FEWEST_OF_A_CLASS:
        groups = _groups(count, None)
    distances: list[float] = []
    for _ in range(resamples):
        distances.append(_resampled_distance(generated, _drawn_again(groups, draws), real))
        if on_resample is not None:
            on_resample()
    tail = (1 - confidence) / 2
    low, high = itself + np.quantile(np.array(distances) - np.mean(distances), [tail, 1 - tail])
    return Interval(
        low=float(low), high=float(high), standard_error=float(np.std(distances, ddof=1)), distances=tuple(distances)
    )


def _groups(count: int, classes: Tensor | None) -> list[np.ndarray]:
    """The indices of each class, or of all if there are none."""
    if classes is None:
        return [np.arange(count)]
    if classes.shape != (count,):
        raise ValueError(f"expected a class for each of {count} features, got shape {tuple(classes.shape)}")
    numbers = classes.cpu().numpy()
    return [np.flatnonzero(numbers == number) for number in np.unique(numbers)]


def _mixed(groups: Sequence[np.ndarray], draws: np.random.Generator) -> np.ndarray:
    """All indices in a random order, of which every beginning holds the groups in the proportions of the whole."""
    members = np.concatenate([draws.permutation(group) for group in groups])
    places = np.concatenate([(np.arange(len(group)) + draws.random(len(group))) / len(group) for group in groups])
    return members[np.argsort(places)]


def _drawn_again(groups: Sequence[np.ndarray], draws: np.random.Generator) -> np.ndarray:
    """As many indices of each group as it has, with replacement."""
    return np.concatenate([group[draws.integers(len(group), size=len(group))] for group in groups])


def _resampled_distance(features: Tensor, drawn: np.ndarray, real: Gaussian) -> float:
    """Fréchet distance of the rows whose indices are drawn, some perhaps repeatedly."""
    times = torch.from_numpy(np.bincount(drawn, minlength=len(features)))
    mean, cov = weighted_gaussian(features, times.to(features.device))
    return frechet_distance(mean, cov, real.mean, real.cov)


def weighted_gaussian(features: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance (divisor: number of rows - 1) of features (N, D) of which row i appears times[i] times.

    A row that appears twice costs as much as one that appears once, and one that does not appear costs nothing. Sums
    are those of deviations from the mean of all rows, near enough to the mean in question that no digits are lost.
    """
    count, dimensions = int(times.sum()), features.shape[1]
    centre = features.mean(dim=0, dtype=torch.float64)
    total = torch.zeros_like(centre)
    scatter = centre.new_zeros(dimensions, dimensions)
    for rows in times.nonzero()[:, 0].split(_BLOCK_ROWS):
        deviations = features[rows].double() - centre
        weighted = deviations * times[rows, None]
        total += weighted.sum(dim=0)
        scatter.addmm_(weighted.T, deviations)
    scatter -= torch.outer(total, total) / count
    return centre + total / count, scatter / (count - 1)
