"""The record of one evaluation: numbers, why some are missing, what they hold under; its names, its file, its print."""

import json
import math
import re
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..files import write_json
from .extractors.features import PublishedNetwork
from .protocol import UNKNOWN, flat

FULL_PROTOCOL_SAMPLES = 50_000
"""From this many generated samples on, a metric goes by its plain name."""

_NAMES = {
    "frechet_distance": "FD",
    "frechet_distance_extrapolated": "FD∞",
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
        "frechet_distance_extrapolated": "FID∞",
        "spatial_frechet_distance": "sFID",
        "inception_score": "IS",
        "inception_score_std": "IS std",
        "kernel_distance": "KID",
        "kernel_distance_std": "KID std",
    },
    "dinov2-vitl14": {
        "frechet_distance": "FD-DINOv2",
        "frechet_distance_extrapolated": "FD∞-DINOv2",
        "kernel_distance": "KD-DINOv2",
        "kernel_distance_std": "KD-DINOv2 std",
    },
}
"""What those on published networks are called, and no others."""
_OF_NEIGHBOURS = frozenset({"kernel_distance", "kernel_distance_std", "precision", "recall", "density", "coverage"})
"""Metrics that look at no more generated samples than the protocol's generated_manifold."""
WORST_CLASSES = 5
"""Classes of the lowest accuracy that are printed."""
PRINT_WIDTH = 110
"""Characters in a line of the printed protocol."""
HASH_DIGITS = 12
"""Of a SHA-256 that is printed beside others."""
_NO_BREAK = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What an evaluation found.

    metrics: by the names that `display_name` knows, as far as they could be computed. absent: for each of the others,
    why. per_class_accuracy: by class name. details: what lies behind a number, as JSON values: under "extrapolation"
    and "bootstrap" what `confidence.py` gives, of the latter with confidence and resamples. doubts: reasons not to
    believe the numbers. protocol: as `protocol_record` gives it. display_names: see `display_name`.
    """

    metrics: Mapping[str, float]
    absent: Mapping[str, str] = field(default_factory=dict)
    per_class_accuracy: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    doubts: Sequence[str] = field(default_factory=list)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    display_names: Mapping[str, str] = field(default_factory=dict)


def display_name(metric: str, *, published: PublishedNetwork | None, num_generated: int) -> str:
    """What a metric is called in print: FID-10k for 10,000 samples on Inception, FD-200 for 200 on another network.

    num_generated: how many the metric looked at. Raises ValueError for an unknown metric.
    """
    if metric not in _NAMES:
        raise ValueError(f"unknown metric {metric!r}; known are {', '.join(_NAMES)}")
    name = _NAMES[metric] if published is None else _NAMES_ON[published].get(metric, _NAMES[metric])
    # An accuracy is a mean over images; all others depend on their number, which therefore belongs to the name.
    if metric == "accuracy" or num_generated >= FULL_PROTOCOL_SAMPLES:
        return name
    thousands, rest = divmod(num_generated, 1000)
    count = f"{thousands}k" if thousands and not rest else str(num_generated)
    first, *others = name.split(" ")
    return " ".join([f"{first}-{count}", *others])


def display_names(
    *, published: PublishedNetwork | None, num_generated: int, num_nearest: int | None = None
) -> dict[str, str]:
    """The printed name of every metric there is; num_nearest: how many of the generated samples the kernel distance and
    those of nearest neighbours look at, None for all."""
    nearest = num_generated if num_nearest is None else num_nearest
    looked_at = {metric: nearest if metric in _OF_NEIGHBOURS else num_generated for metric in _NAMES}
    return {metric: display_name(metric, published=published, num_generated=n) for metric, n in looked_at.items()}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One number as a table shows it."""

    metric: str
    name: str
    """Of the metric, in print."""
    value: str
    spread: str
    """What is known of its uncertainty, in words; empty where nothing is."""


def entries(report: Report) -> list[Entry]:
    """The numbers of a report in the order of a table, spreads beside what they are of."""
    spreads = {
        "frechet_distance": _interval(report),
        "frechet_distance_extrapolated": _standard_error(report),
        "inception_score": _deviation(report, "inception_score_std", "splits"),
        "kernel_distance": _deviation(report, "kernel_distance_std", "subsets"),
    }
    return [
        Entry(metric=key, name=shown_name(report, key), value=number(report.metrics[key]), spread=spreads.get(key, ""))
        for key in in_order(report.metrics)
    ]


def in_order(metrics: Collection[str]) -> list[str]:
    """Metrics in the order of a table, without those that are only the spread of another."""
    return [metric for metric in _NAMES if metric in metrics and not metric.endswith("_std")]


def shown_name(report: Report, metric: str) -> str:
    """What a report calls a metric in print."""
    return report.display_names.get(metric, metric)


def number(value: float) -> str:
    """A number with four significant digits and at least two decimals: 3.943, 215.84, 0.002134."""
    size = abs(value)
    if not size:
        return "0"
    if not 1e-4 <= size < 1e6:
        return f"{value:.3e}"
    return f"{value:.{max(2, 3 - math.floor(math.log10(size)))}f}"


def write_report(path: Path, report: Report) -> None:
    """Write a report as JSON, atomically."""
    write_json(path, asdict(report))


def read_report(path: Path) -> Report:
    """The report that `write_report` wrote, or an older one, which may lack parts.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is no report.
    """
    advice = "give the JSON file that scripts/evaluate.py wrote"
    if not path.is_file():
        raise FileNotFoundError(f"there is no evaluation record {path}; {advice}")
    try:
        stored: Any = json.loads(path.read_bytes())
    except ValueError as error:  # of JSON or of its encoding
        raise ValueError(f"{path} is damaged or no evaluation record ({error}); {advice}") from None
    if not isinstance(stored, dict) or not {"metrics", "protocol"} <= stored.keys():
        raise ValueError(f"{path} is no evaluation record: it lacks metrics and a protocol; {advice}")
    parts = {part.name: stored[part.name] for part in fields(Report) if part.name in stored}
    kinds = {name: list if name == "doubts" else dict for name in parts}
    wrong = [name for name, value in parts.items() if not isinstance(value, kinds[name])]
    if not wrong:
        wrong += [name for name, value in parts["metrics"].items() if not isinstance(value, int | float)]
        wrong += [name for name, value in parts["protocol"].items() if not isinstance(value, dict)]
    if wrong:
        raise ValueError(f"{path} is damaged: its {wrong[0]} is of another kind than in an evaluation record; {advice}")
    return Report(**parts)


def format_report(report: Report) -> str:
    """A report as plain text: number, spread and extractor; what is missing; the worst classes; the protocol."""
    blocks = (_number_lines(report), _worst_class_lines(report), _protocol_lines(report.protocol))
    return "\n\n".join("\n".join(lines) for lines in blocks if lines)


def word(value: Any) -> str:  # a plain value
    """A value of a protocol as a table shows it; of a SHA-256, the beginning."""
    if isinstance(value, bool):
        return "on" if value else "off"
    text = "none" if value is None else str(value)
    return text[:HASH_DIGITS] if re.fullmatch("[0-9a-f]{64}", text) else text


def aligned(numbers: Sequence[str]) -> list[str]:
    """Numbers as texts of one width, their points below one another."""
    parts = [text.partition(".") for text in numbers]
    before = max((len(whole) for whole, _, _ in parts), default=0)
    after = max((len(point + decimals) for _, point, decimals in parts), default=0)
    return [f"{whole:>{before}}{point + decimals:<{after}}" for whole, point, decimals in parts]


def _number_lines(report: Report) -> list[str]:
    shown = entries(report)
    missing = [(shown_name(report, metric), reason) for metric, reason in report.absent.items()]
    name_width = max(len(name) for name in [*(entry.name for entry in shown), *(name for name, _ in missing)])
    spread_width = max((len(entry.spread) for entry in shown), default=0)
    values = aligned([entry.value for entry in shown])
    value_width = max([len("absent"), *map(len, values)])
    extractor = report.protocol["extractor"]["name"]
    lines = [
        f"{entry.name:<{name_width}}  {value:>{value_width}}  {entry.spread:<{spread_width}}  {extractor}"
        for entry, value in zip(shown, values, strict=True)
    ]
    return lines + [f"{name:<{name_width}}  {'absent':>{value_width}}  {reason}" for name, reason in missing]


def _worst_class_lines(report: Report) -> list[str]:
    worst = sorted(report.per_class_accuracy.items(), key=lambda item: item[1])[:WORST_CLASSES]
    if not worst:
        return []
    width = max(len(name) for name, _ in worst)
    return ["lowest accuracy of a class", *(f"  {name:<{width}}  {accuracy:.4f}" for name, accuracy in worst)]


def _protocol_lines(protocol: Mapping[str, Any]) -> list[str]:
    generated, real, extractor = protocol["generated"], protocol["real"], protocol["extractor"]
    order, resize = generated.get("order", UNKNOWN), extractor.get("resize", UNKNOWN)
    parts = {
        "generated": [*_side_words(generated), f"order {order}", *_hash_words(generated)],
        "sampling": [*_words(generated["sampling"]), f"made on {generated['made_on']}"],
        "real": [*_side_words(real), *_hash_words(real)],
        "extractor": [extractor["name"], f"resize {resize}", f"SHA-256 {extractor['sha256']}"],
        "settings": _words(protocol["settings"]),
        "arithmetic": _words(protocol["arithmetic"]),
        "versions": _words(protocol["versions"]),
    }
    return [_wrapped(f"{name:<12}", words) for name, words in parts.items()]


def _wrapped(title: str, words: Sequence[str]) -> str:
    """Title and words, lines ending between words only."""
    whole = ", ".join(word.replace(" ", _NO_BREAK) for word in words)
    filled = textwrap.fill(
        whole, PRINT_WIDTH, initial_indent=title, subsequent_indent=" " * len(title),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return filled.replace(_NO_BREAK, " ")


def _side_words(side: Mapping[str, Any]) -> list[str]:
    size = side["image_size"]
    shape = size if size == UNKNOWN else f"{size[0]}x{size[1]}x{side['channels']}"
    return [
        f"{side['num_images']} images of {side['path']} ({side['kind']})",
        f"size {shape}",
        f"resize {side['resize']}",
        f"{side['num_manifold_images']} looked at for precision and recall",
    ]


def _hash_words(side: Mapping[str, Any]) -> list[str]:
    if "sha256" in side:
        return [f"SHA-256 {word(side['sha256'])}"]
    return [f"files' names, sizes and times SHA-256 {word(side['files_sha256'])}"] if "files_sha256" in side else []


def _words(record: Mapping[str, Any]) -> list[str]:
    if record and all(value == UNKNOWN for value in record.values()):
        return [UNKNOWN]
    told = {name: value for name, value in flat(record).items() if value is not None}
    return [f"{name.replace('_', ' ')} {word(value)}" for name, value in told.items()]


def _interval(report: Report) -> str:
    found = report.details.get("bootstrap")
    if found is None:
        return ""
    how = f"({found['confidence']:.0%} of {found['resamples']} resamplings)"
    return f"{number(found['low'])} .. {number(found['high'])} {how}"


def _standard_error(report: Report) -> str:
    found = report.details.get("extrapolation")
    return "" if found is None else f"± {found['standard_error']:.2g} (standard error of the line)"


def _deviation(report: Report, metric: str, of: str) -> str:
    if of == "splits" and report.protocol["generated"]["num_images"] <= report.protocol["settings"]["split_size"]:
        return "one split"
    return f"± {report.metrics[metric]:.2g} (deviation over {of})" if metric in report.metrics else ""
