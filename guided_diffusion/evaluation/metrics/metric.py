"""The interface of a metric: its numbers, their computation, and the settings that they depend on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ..config import EvaluationConfig
from ..measure import MeasuredSet
from ..report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEATURE_COUNTS: Mapping[str, str] = {
    "generated.num_manifold_images": "N generated of precision and recall",
    "real.num_manifold_images": "N real of precision and recall",
}
"""Protocol fields of every metric that looks at the features themselves."""


@dataclass(frozen=True, kw_only=True)
class Number:
    """One number of a report: its key there and its appearance in tables."""

    key: str
    """Key in the report's JSON."""
    name: str
    """Name in print, on the features of any network."""
    inception_name: str | None = None
    """Name on the published Inception, if the literature has one; on other published networks `name` gets a suffix."""
    lower_is_better: bool = False
    is_headline: bool = False
    """Shown in large type, and in the tables and curves of sweeps."""
    is_deviation: bool = False
    """A standard deviation, shown beside the number that it belongs to and not in a row of its own."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """Values of a metric's numbers by key, or the reason for which there are none.

    details: JSON values behind the numbers. per_class_accuracy: by class name.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    missing: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    per_class_accuracy: Mapping[str, float] = field(default_factory=dict)


Computation = Callable[[MeasuredSet, MeasuredSet, EvaluationConfig], Result]
"""From the generated set, the real set and the settings to the numbers."""
Warnings = Callable[[MeasuredSet, MeasuredSet, EvaluationConfig], Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric; report, printed table, page and comparison show whatever is in the table `METRICS`."""

    numbers: tuple[Number, ...]
    looks_at: Literal["pooled", "spatial", "probabilities", "features", "labels"]
    """Input: statistics of pooled or spatial features, class probabilities, the kept pooled features, or labels."""
    compute: Computation
    """Called only if both sets have that input."""
    protocol: Mapping[str, str] = field(default_factory=dict)
    """Protocol fields across which the numbers cannot be compared, and their names in print."""
    warnings: Warnings = lambda generated, real, config: ()
    """Reasons to doubt the numbers, a sentence each."""
    uncertainty: Mapping[str, Callable[[Report], str]] = field(default_factory=dict)
    """By key of a number, the words beside it, such as an interval; empty where the report says nothing."""
    figures: Mapping[str, Callable[[Report], "Figure | None"]] = field(default_factory=dict)
    """Figures of the page under their headings; None where a report lacks the data."""

    @property
    def shown(self) -> list[Number]:
        """The numbers that have a row of their own."""
        return [number for number in self.numbers if not number.is_deviation]

    @property
    def decisive_fields(self) -> Mapping[str, str]:
        """All protocol fields across which the numbers cannot be compared, and their names in print."""
        return {**(FEATURE_COUNTS if self.looks_at == "features" else {}), **self.protocol}

    def result(self, generated: MeasuredSet, real: MeasuredSet, config: EvaluationConfig) -> Result:
        """The numbers, or the reason for which there are none."""
        missing = self._missing_input(generated, real)
        return Result(missing=missing) if missing else self.compute(generated, real, config)

    def _missing_input(self, generated: MeasuredSet, real: MeasuredSet) -> str | None:
        if self.looks_at == "spatial" and generated.spatial is None:
            return "the extractor has no spatial features"
        if self.looks_at == "spatial" and real.spatial is None:
            return "the reference holds no mu_s, sigma_s"
        if self.looks_at == "probabilities" and generated.probabilities is None:
            return "the extractor has no class probabilities"
        if self.looks_at == "features" and real.features is None:
            return "the reference holds statistics but no images (arr_0)"
        return None


def deviation(report: Report, key: str, *, over: str) -> str:
    """A number's standard deviation in words; empty if the report has none."""
    return f"± {report.metrics[key]:.2g} (deviation over {over})" if key in report.metrics else ""


def check_rows(values: Tensor, name: str) -> None:
    """Refuse, by a ValueError, what is not a matrix of finite numbers with a row for each image."""
    if values.ndim != 2 or values.numel() == 0:
        raise ValueError(f"{name} must be a non-empty matrix, one row per image, got shape {tuple(values.shape)}")
    # Extremes are nan if any value is. To ask each value takes 400 MB for 50,000 Inception features.
    if not torch.isfinite(torch.stack(values.aminmax())).all():
        raise ValueError(f"{name} must be finite")


def check_comparable(*, real: Tensor, generated: Tensor) -> None:
    """Refuse, by a ValueError, what is not features (N, D) and (M, D) of two sets."""
    check_rows(real, "real features")
    check_rows(generated, "generated features")
    if real.shape[1] != generated.shape[1]:
        raise ValueError(f"features of shapes {tuple(real.shape)} and {tuple(generated.shape)} cannot be compared")
