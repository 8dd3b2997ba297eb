"""Fréchet distance extrapolated to infinitely many samples (Chong and Forsyth 2020)."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import linregress
from torch import Tensor

from ..config import EvaluationConfig
from ..measure import MeasuredSet
from ..report import Report, shown_name
from ..statistics import Gaussian
from .checks import check_rows
from .metric import FRECHET_UNCERTAINTY, Metric, Number, Result
from .resampling import balanced_classes, class_groups, mixed, resampled_distance

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Extrapolation:
    """A Fréchet distance as a line over 1 / N.

    distance: the line at infinitely many samples. standard_error: of that, by the scatter of the points about the line;
    the scatter between one set of samples and another is not in it. sizes, distances: the points.
    """

    distance: float
    standard_error: float
    sizes: tuple[int, ...]
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
    count, sizes = len(generated), _subset_sizes(generated, points)
    draws = np.random.default_rng(seed)
    groups = class_groups(count, classes)
    distances = [resampled_distance(generated, mixed(groups, draws)[:size], real) for size in sizes]
    line: Any = linregress(1 / sizes, distances)  # typed as a tuple, of which the intercept's error is no part
    return Extrapolation(
        distance=float(line.intercept),
        standard_error=float(line.intercept_stderr),
        sizes=tuple(sizes.tolist()),
        distances=tuple(distances),
    )


def _subset_sizes(generated: Tensor, points: int) -> np.ndarray:
    check_rows(generated, "generated features")
    count, dimensions = generated.shape
    if points < 3:
        raise ValueError(f"a line and its error need at least 3 points, got {points}")
    smallest = max(count // 10, 2 * (dimensions + 1))
    if count < 2 * smallest:
        raise ValueError(
            f"extrapolation needs at least {2 * smallest} generated images, four for each of the {dimensions} features "
            f"and four more, got {count}; generate more, or leave the extrapolation out"
        )
    return np.linspace(smallest, count, points).round().astype(int)


def extrapolation_figure(report: Report) -> "Figure | None":
    """The Fréchet distance of growing subsets against 1/N, and the line that leads to infinitely many samples."""
    from ..figures import add_legend, new_figure  # here, since matplotlib takes a second to import

    if "extrapolation" not in report.details:
        return None
    found = report.details["extrapolation"]
    inverse, distances = 1 / np.array(found["sizes"], dtype=float), np.array(found["distances"], dtype=float)
    # The least-squares line through its own intercept, which is the extrapolated distance.
    slope = inverse @ (distances - found["distance"]) / (inverse @ inverse)
    figure, axis = new_figure(width=6)
    ends = np.array([0, inverse.max()])
    axis.plot(ends, found["distance"] + slope * ends, color="grey", linestyle="--")
    axis.plot(inverse, distances, "o", label="subsets")
    name = shown_name(report, "frechet_distance_extrapolated")
    axis.errorbar(0, found["distance"], found["standard_error"], fmt="s", capsize=4, label=name)
    axis.set(xlabel="1 / N", ylabel="Fréchet distance")
    axis.ticklabel_format(axis="x", scilimits=(0, 0))
    add_legend(axis)
    return figure


def _extrapolate(generated: MeasuredSet, real: MeasuredSet, config: EvaluationConfig) -> Result:
    if not config.extrapolate:
        return Result()
    assert generated.features is not None
    try:
        found = extrapolated_frechet_distance(generated.features, real.pooled, classes=balanced_classes(generated))
    except ValueError as error:  # too few samples for it
        return Result(missing=str(error))
    return Result(values={"frechet_distance_extrapolated": found.distance}, details={"extrapolation": asdict(found)})


def _extrapolation_error(report: Report) -> str:
    found = report.details.get("extrapolation")
    return "" if found is None else f"± {found['standard_error']:.2g} (standard error of the line)"


EXTRAPOLATION = Metric(
    numbers=(Number(key="frechet_distance_extrapolated", name="FD∞", inception_name="FID∞", lower_is_better=True),),
    looks_at="pooled",
    compute=_extrapolate,
    uncertainty={"frechet_distance_extrapolated": _extrapolation_error},
    figures={FRECHET_UNCERTAINTY: extrapolation_figure},
)
