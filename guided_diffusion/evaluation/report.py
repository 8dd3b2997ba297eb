"""The record of one evaluation: numbers, why some are missing, the protocol they hold under; its names and print."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from guided_diffusion.data.shards import write_json
from guided_diffusion.evaluation.features import PublishedNetwork

FULL_PROTOCOL_SAMPLES = 50_000
"""From this many generated samples on, a metric goes by its plain name."""

_NAMES = {
    "frechet_distance": "FD",
    "spatial_frechet_distance": "sFD",
    "inception_score": "IS-like",
    "inception_score_std": "IS-like std",
    "kernel_distance": "KD",
    "kernel_distance_std": "KD std",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "accuracy": "accuracy",
}
"""Metrics on any network's features, in the order of a table."""
_NAMES_ON: Mapping[PublishedNetwork, Mapping[str, str]] = {
    "inception-2015": {
        "frechet_distance": "FID",
        "spatial_frechet_distance": "sFID",
        "inception_score": "IS",
        "inception_score_std": "IS std",
        "kernel_distance": "KID",
        "kernel_distance_std": "KID std",
    },
    "dinov2-vitl14": {
        "frechet_distance": "FD-DINOv2",
        "kernel_distance": "KD-DINOv2",
        "kernel_distance_std": "KD-DINOv2 std",
    },
}
"""What those on published networks are called, and no others."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What an evaluation found.

    metrics: frechet_distance, spatial_frechet_distance, inception_score (mean over splits), inception_score_std,
    precision, recall, accuracy, as far as they could be computed. absent: for each of the others, why.
    per_class_accuracy: by class name. protocol: JSON values under generated, real, extractor, settings, versions.
    display_names: see `display_name`.
    """

    metrics: Mapping[str, float]
    absent: Mapping[str, str] = field(default_factory=dict)
    per_class_accuracy: Mapping[str, float] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    display_names: Mapping[str, str] = field(default_factory=dict)


def display_name(metric: str, *, published: PublishedNetwork | None, num_generated: int) -> str:
    """What a metric is called in print: FID-10k for 10,000 samples on Inception, FD-200 for 200 on another network.

    Raises ValueError for an unknown metric.
    """
    if metric not in _NAMES:
        raise ValueError(f"unknown metric {metric!r}; known are {', '.join(_NAMES)}")
    name = _NAMES[metric] if published is None else _NAMES_ON[published].get(metric, _NAMES[metric])
    # An accuracy is a mean over images; all others are biased by their number, which therefore belongs to the name.
    if metric == "accuracy" or num_generated >= FULL_PROTOCOL_SAMPLES:
        return name
    thousands, rest = divmod(num_generated, 1000)
    count = f"{thousands}k" if thousands and not rest else str(num_generated)
    first, *others = name.split(" ")
    return " ".join([f"{first}-{count}", *others])


def display_names(*, published: PublishedNetwork | None, num_generated: int) -> dict[str, str]:
    """The printed name of every metric there is."""
    return {metric: display_name(metric, published=published, num_generated=num_generated) for metric in _NAMES}


def write_report(path: Path, report: Report) -> None:
    """Write a report as JSON, atomically."""
    write_json(path, asdict(report))


def format_report(report: Report) -> str:
    """A report as a plain table: number, value, extractor; then what is missing and what was compared with what."""
    protocol = report.protocol
    extractor, generated, real = protocol["extractor"], protocol["generated"], protocol["real"]
    width = max(map(len, report.display_names.values()))
    lines = [
        f"{report.display_names[metric]:<{width}}  {value:>10.5g}  {extractor['name']}"
        for metric, value in report.metrics.items()
    ]
    lines += [
        f"{report.display_names[metric]:<{width}}  {'absent':>10}  {reason}" for metric, reason in report.absent.items()
    ]
    lines += [
        "",
        f"generated: {generated['num_images']} images of {generated['path']}",
        f"real: {real['num_images'] or 'unknown number of'} images of {real['path']}",
        f"extractor: {extractor['name']}, SHA-256 {extractor['sha256']}",
    ]
    return "\n".join(lines)
