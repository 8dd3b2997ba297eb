"""Bootstrap interval of the Fréchet distance."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor
from tqdm import tqdm

from ..config import EvaluationConfig
from ..measure import MeasuredSet
from ..report import Report, number, shown_name
from ..statistics import Gaussian
from .checks import check_rows
from .metric import FRECHET_UNCERTAINTY, Metric, Result
from .resampling import balanced_classes, class_groups, drawn_again, resampled_distance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFIDENCE = 0.95
"""Of bootstrap intervals."""
FEWEST_PER_DIMENSION = 10
"""Samples for each feature, below which a bootstrap interval is much too wide."""
FEWEST_RESAMPLINGS = 40
"""Below which 95 % of them is not told from all."""
LEAST_SPREAD = 1e-4
"""Width of a histogram relative to its centre, at least. Distances that differ by rounding alone are one bar then."""
_FEWEST_OF_A_CLASS = 20
"""Samples that are resampled within their class, at least; of 20, their variance is 5 % too small."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Bootstrap interval of a Fréchet distance.

    low, high: bounds of the average distance of sets of as many samples. standard_error: standard deviation of the
    distance between such sets. distances: of the resampled sets, with the bias that repeated samples add.
    """

    low: float
    high: float
    standard_error: float
    distances: tuple[float, ...]


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

    Drawing N of the N with replacement repeats some and misses others, which adds as much bias again as N samples have.
    Only the spread of the resampled distances counts: the interval is the set's own distance plus the quantiles of
    (resampled - mean of resampled). It holds the average distance of sets of N samples, bias included, with the given
    confidence; two such sets differ by sqrt(2) standard errors. The real side counts as given. Of few samples the
    interval is too wide: by a tenth from 25 D samples on, by half at 10 D (`benchmarks/confidence.py`).

    classes: (N,) class numbers, if a fixed number of each was asked for; resampled sets then keep them. With fewer than
    20 of some class, samples are drawn without regard to classes, which makes the interval wider. Every resampling
    costs a covariance (0.63 N D^2 multiplications) and a Fréchet distance. on_resample: called after each.

    Raises:
        ValueError: fewer than 2 resamples, or a confidence outside 0..1.
    """
    check_rows(generated, "generated features")
    if resamples < 2 or not 0 < confidence < 1:
        raise ValueError(f"an interval needs 2 resamplings and 0 < confidence < 1, got {resamples} and {confidence}")
    itself = resampled_distance(generated, np.arange(len(generated)), real)
    draws, groups = np.random.default_rng(seed), _resampling_groups(len(generated), classes)
    distances: list[float] = []
    for _ in range(resamples):
        distances.append(resampled_distance(generated, drawn_again(groups, draws), real))
        on_resample()
    tail = (1 - confidence) / 2
    low, high = (float(end) for end in itself + np.quantile(np.array(distances) - np.mean(distances), [tail, 1 - tail]))
    return Interval(low=low, high=high, standard_error=float(np.std(distances, ddof=1)), distances=tuple(distances))


def _resampling_groups(count: int, classes: Tensor | None) -> list[np.ndarray]:
    # n samples of a class, drawn again, vary by (n - 1) / n of what they should.
    groups = class_groups(count, classes)
    return groups if min(map(len, groups)) >= _FEWEST_OF_A_CLASS else class_groups(count, None)


def bootstrap_figure(report: Report) -> "Figure | None":
    """Histogram of the resampled distances about that of the images themselves."""
    from ..figures import add_legend, new_figure  # here, since matplotlib takes a second to import

    if "bootstrap" not in report.details:
        return None
    found, itself = report.details["bootstrap"], report.metrics["frechet_distance"]
    distances = np.array(found["distances"])
    figure, axis = new_figure(width=6)
    # Only their scatter tells: resampling repeats images, which moves all of the distances up.
    shown = distances - distances.mean() + itself
    ends = itself * (1 - LEAST_SPREAD / 2), itself * (1 + LEAST_SPREAD / 2)
    span = min(shown.min(), *ends), max(shown.max(), *ends)
    # Rice's number of bins depends on the count alone: widths by the quartiles, numpy's "auto", make millions of bins
    # where all distances but one are nearly the same.
    axis.hist(shown, bins=math.ceil(2 * len(shown) ** (1 / 3)), range=span, alpha=0.6)
    axis.axvspan(found["low"], found["high"], alpha=0.15, color="grey", label=f"{found['confidence']:.0%} interval")
    axis.axvline(itself, color="black", label=shown_name(report, "frechet_distance"))
    axis.set(xlabel="Fréchet distance, resampled, about its own mean", ylabel="resamplings")
    add_legend(axis)
    return figure


def _compute(generated: MeasuredSet, real: MeasuredSet, config: EvaluationConfig) -> Result:
    if not config.bootstrap:
        return Result()
    assert generated.features is not None
    with tqdm(total=config.bootstrap, desc="bootstrap", unit="set") as bar:
        interval = bootstrap_frechet_distance(
            generated.features, real.pooled, resamples=config.bootstrap, classes=balanced_classes(generated),
            on_resample=bar.update,
        )  # fmt: skip
    settings = {"confidence": CONFIDENCE, "resamples": config.bootstrap}
    return Result(details={"bootstrap": asdict(interval) | settings})


def _interval(report: Report) -> str:
    found = report.details.get("bootstrap")
    if found is None:
        return ""
    source = f"({found['confidence']:.0%} of {found['resamples']} resamplings)"
    return f"{number(found['low'])} .. {number(found['high'])} {source}"


def _warnings(generated: MeasuredSet, real: MeasuredSet, config: EvaluationConfig) -> list[str]:
    if not config.bootstrap or generated.features is None:
        return []
    count, dimensions = generated.features.shape
    found: list[str] = []
    if config.bootstrap < FEWEST_RESAMPLINGS:
        found.append(f"{config.bootstrap} resamplings do not show where 95 % of them lie; 200 do")
    if count < FEWEST_PER_DIMENSION * dimensions:
        found.append(
            f"with {count} samples of {dimensions} dimensions the bootstrap interval is too wide, by half or more; "
            f"from {25 * dimensions} on by a tenth"
        )
    return found


BOOTSTRAP = Metric(
    numbers=(),
    looks_at="pooled",
    compute=_compute,
    warnings=_warnings,
    uncertainty={"frechet_distance": _interval},
    figures={FRECHET_UNCERTAINTY: bootstrap_figure},
)
