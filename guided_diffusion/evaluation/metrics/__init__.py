"""Metrics, one file each, and the table of all of them."""

from .accuracy import ACCURACY
from .confidence import BOOTSTRAP, EXTRAPOLATION
from .frechet import FRECHET_DISTANCE, SPATIAL_FRECHET_DISTANCE
from .inception_score import INCEPTION_SCORE
from .kernel import KERNEL_DISTANCE
from .metric import Metric, Number
from .neighbours import DENSITY_COVERAGE, PRECISION_RECALL

METRICS: tuple[Metric, ...] = (
    FRECHET_DISTANCE,
    EXTRAPOLATION,
    BOOTSTRAP,
    SPATIAL_FRECHET_DISTANCE,
    INCEPTION_SCORE,
    KERNEL_DISTANCE,
    PRECISION_RECALL,
    DENSITY_COVERAGE,
    ACCURACY,
)
"""All metrics, in the order of a table."""
NUMBERS: dict[str, Number] = {number.key: number for metric in METRICS for number in metric.numbers}
"""All numbers by their keys, in the order of a table."""
UNCERTAINTY = {key: words for metric in METRICS for key, words in metric.uncertainty.items()}
"""Functions from a report to the words beside a number, by the number's key."""
HEADLINES: tuple[Number, ...] = tuple(number for number in NUMBERS.values() if number.is_headline)
"""The numbers in large type."""
RANKING: Number = HEADLINES[0]
"""The number by which sweeps rank their settings."""
