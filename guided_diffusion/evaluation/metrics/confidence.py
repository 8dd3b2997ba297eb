"""Uncertainty of the Fréchet distance: extrapolation to infinitely many samples, and a bootstrap interval."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..config import EvaluationConfig
from ..measure import MeasuredSet
from ..report import Report, number
from ..statistics import Gaussian
from .frechet import frechet_distance
from .metric import Metric, Number, Result, check_rows

CONFIDENCE = 0.95
"""Of bootstrap intervals."""
FEWEST_PER_DIMENSION = 10
"""Samples for each feature, below which a bootstrap interval is much too wide."""
FEWEST_RESAMPLINGS = 40
"""Resamplings below which the 95 % interval is their whole range."""
BLOCK_ROWS = 4096
"""Features in float64 at once, 64 MiB of Inception's."""
_FEWEST_OF_A_CLASS = 20
"""Samples to resample within their class: n of them vary by (n - 1) / n of what they should, 20 by 5 % too little."""


@dataclass(frozen=True)
class Extrapolation:
    """A Fréchet distance as a line over 1 / N.

    distance: the line at infinitely many samples. standard_error: of that, by the scatter of the points about the line;
    the scatter between one set of samples and another is not in it. sizes, distances: the points.
    """

    distance: float
    standard_error: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]


@dataclass(frozen=True)
class Interval:
    """Bootstrap interval of a Fréchet distance.

    low, high: bounds of the average distance of sets of as many samples. standard_error: standard deviation of the
    distance between such sets. distances: of the resampled sets, with the bias that repeated samples add and the larger
    spread that comes of it.
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
    intercept has no bias of the generated side; that of the real side remains. Below D + 1 samples the covariance is
    singular and the law another, and just above the bias still exceeds it: up to a tenth of the bias remains in the
    intercept, with the opposite sign (`benchmarks/confidence.py`).

    classes: (N,) class numbers, if a fixed number of each was asked for; every subset then has the set's proportions.
    Random proportions would move small subsets further than the whole set, and the line would lead to far too small a
    distance. Every point costs a covariance (n D^2 multiplications in float64, on the features' device) and a Fréchet
    distance (of the order of D^3, on the CPU).

    Raises:
        ValueError: fewer than 4 (D + 1) features, or 3 points.
    """
    from scipy.stats import linregress  # here, since it takes a second to import

    check_rows(generated, "generated features")
    count, dimensions = generated.shape
    smallest = max(count // 10, 2 * (dimensions + 1))
    if points < 3:
        raise ValueError(f"a line and its error need at least 3 points, got {points}")
    if count < 2 * smallest:
        raise ValueError(
            f"extrapolation needs at least {2 * smallest} generated images, four for each of the {dimensions} features "
            f"and four more, got {count}; generate more, or leave the extrapolation out"
        )
    sizes = np.linspace(smallest, count, points).round().astype(int)
    draws, groups = np.random.default_rng(seed), class_groups(count, classes)
    distances = [resampled_distance(generated, mixed(groups, draws)[:size], real) for size in sizes]
    line: Any = linregress(1 / sizes, distances)  # typed as a tuple, of which the intercept's error is no part
    return Extrapolation(float(line.intercept), float(line.intercept_stderr), tuple(sizes.tolist()), tuple(distances))


def bootstrap_frechet_distance(
    generated: Tensor,
    real: Gaussian,
    *,
    resamples: int,
    classes: Tensor | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    on_resample: Callable[[], object] = lambda: None,
) -> Interval:
    """A bootstrap interval around the Fréchet distance of (N, D) features, for the chance in drawing these N samples.

    Drawing N of the N with replacement adds as much bias again as N samples have. The distance is a sum of squares,
    whose spread grows with its size, as its root's does not. So only the spread of the roots counts: the interval's
    roots are the set's own plus the quantiles of (resampled root - mean of these). Without roots it would be twice as
    wide for a good model, and reach below 0. It holds the average distance of sets of N samples with that confidence,
    the real side as given. It is too wide for few samples, by a third at 10 D (`benchmarks/confidence.py`).

    classes: (N,) class numbers, if a fixed number of each was asked for; resampled sets then keep them, but with fewer
    than 20 of some class. Each resampling costs 0.63 N D^2 multiplications and a distance; `on_resample` follows it.

    Raises:
        ValueError: fewer than 2 resamples, or a confidence outside 0..1.
    """
    if resamples < 2 or not 0 < confidence < 1:
        raise ValueError(f"an interval needs 2 resamplings and 0 < confidence < 1, got {resamples} and {confidence}")
    check_rows(generated, "generated features")
    itself = resampled_distance(generated, np.arange(len(generated)), real)
    draws, groups = np.random.default_rng(seed), class_groups(len(generated), classes)
    if min(map(len, groups)) < _FEWEST_OF_A_CLASS:
        groups = class_groups(len(generated), None)
    distances: list[float] = []
    for _ in range(resamples):
        drawn = np.concatenate([group[draws.integers(len(group), size=len(group))] for group in groups])
        distances.append(resampled_distance(generated, drawn, real))
        on_resample()
    tail, roots = (1 - confidence) / 2, np.sqrt(distances)
    ends = itself**0.5 + np.quantile(roots - roots.mean(), [tail, 1 - tail])
    low, high = (max(float(end), 0.0) ** 2 for end in ends)  # a root below 0: of a set at no distance from the real
    return Interval(low, high, 2 * itself**0.5 * float(roots.std(ddof=1)), tuple(distances))


def class_groups(count: int, classes: Tensor | None) -> list[np.ndarray]:
    """The indices of each class, or of all if there are none."""
    if classes is None:
        return [np.arange(count)]
    if classes.shape != (count,):
        raise ValueError(f"expected a class for each of {count} features, got shape {tuple(classes.shape)}")
    of_each = classes.cpu().numpy()
    return [np.flatnonzero(of_each == one) for one in np.unique(of_each)]


def mixed(groups: Sequence[np.ndarray], draws: np.random.Generator) -> np.ndarray:
    """All indices in a random order, of which every beginning holds the groups in the proportions of the whole."""
    members = np.concatenate([draws.permutation(group) for group in groups])
    places = np.concatenate([(np.arange(len(group)) + draws.random(len(group))) / len(group) for group in groups])
    return members[np.argsort(places)]


def resampled_distance(features: Tensor, drawn: np.ndarray, real: Gaussian) -> float:
    """Fréchet distance of the rows with these indices, some perhaps repeated."""
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
    for rows in times.nonzero()[:, 0].split(BLOCK_ROWS):
        deviations = features[rows].double() - centre
        weighted = deviations * times[rows, None]
        total += weighted.sum(dim=0)
        scatter.addmm_(weighted.T, deviations)
    scatter -= torch.outer(total, total) / count
    return centre + total / count, scatter / (count - 1)


def _balanced_classes(generated: MeasuredSet) -> Tensor | None:
    """The labels, if each class has as many samples as any other: then their numbers are not random."""
    labels = generated.labels
    if labels is None or (labels < 0).any():
        return None
    counts = labels.unique(return_counts=True)[1]
    return labels if int(counts.max() - counts.min()) <= 1 else None


def _extrapolate(generated: MeasuredSet, real: MeasuredSet, config: EvaluationConfig) -> Result:
    if not config.extrapolate:
        return Result()
    assert generated.features is not None
    try:
        found = extrapolated_frechet_distance(generated.features, real.pooled, classes=_balanced_classes(generated))
    except ValueError as error:  # too few samples for it
        return Result(missing=str(error))
    return Result(values={"frechet_distance_extrapolated": found.distance}, details={"extrapolation": asdict(found)})


def _bootstrap(generated: MeasuredSet, real: MeasuredSet, config: EvaluationConfig) -> Result:
    if not config.bootstrap:
        return Result()
    assert generated.features is not None
    with tqdm(total=config.bootstrap, desc="bootstrap", unit="set") as bar:
        interval = bootstrap_frechet_distance(
            generated.features, real.pooled, resamples=config.bootstrap, classes=_balanced_classes(generated),
            on_resample=bar.update,
        )  # fmt: skip
    settings = {"confidence": CONFIDENCE, "resamples": config.bootstrap}
    return Result(details={"bootstrap": asdict(interval) | settings})


def _bootstrap_warnings(generated: MeasuredSet, real: MeasuredSet, config: EvaluationConfig) -> Iterator[str]:
    if not config.bootstrap or generated.features is None:
        return
    count, dimensions = generated.features.shape
    if config.bootstrap < FEWEST_RESAMPLINGS:
        yield f"{config.bootstrap} resamplings do not show where 95 % of them lie; 200 do"
    if count < FEWEST_PER_DIMENSION * dimensions:
        yield (
            f"with {count} samples of {dimensions} dimensions the bootstrap interval is too wide, up to twofold; from "
            f"{25 * dimensions} on by a fifth at most"
        )


def _error_of_line(report: Report) -> str:
    return f"± {report.details['extrapolation']['standard_error']:.2g} (standard error of the line)"


def _interval(report: Report) -> str:
    if (found := report.details.get("bootstrap")) is None:
        return ""
    bounds = f"{number(found['low'])} .. {number(found['high'])}"
    return f"{bounds} ({found['confidence']:.0%} of {found['resamples']} resamplings)"


EXTRAPOLATION = Metric(
    numbers=(Number(key="frechet_distance_extrapolated", name="FD∞", inception_name="FID∞", lower_is_better=True),),
    looks_at="pooled",
    compute=_extrapolate,
    uncertainty={"frechet_distance_extrapolated": _error_of_line},
)
BOOTSTRAP = Metric(
    numbers=(),
    looks_at="pooled",
    compute=_bootstrap,
    warnings=_bootstrap_warnings,
    uncertainty={"frechet_distance": _interval},
)
