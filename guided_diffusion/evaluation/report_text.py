"""A report in print: names of its numbers, rows of a table, and the whole as plain text."""

import re
import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from .extractors.weights import PublishedWeights
from .metrics import METRICS, NUMBERS, UNCERTAINTY
from .protocol import UNKNOWN, flat_protocol
from .report import Report, number, shown_name

FULL_PROTOCOL_SAMPLES = 50_000
"""From this many generated samples on, a metric goes by its plain name."""
PRINT_WIDTH = 110
"""Characters in a line of the printed protocol."""
HASH_DIGITS = 12
"""Of a SHA-256 in print."""
_WORST_CLASSES = 5
_NO_BREAK = "\N{NO-BREAK SPACE}"


def display_name(key: str, *, published: PublishedWeights | None, num_images: int | None) -> str:
    """Name of a number in print: FID-10k for 10,000 samples on Inception, FD-200 for 200 on another network.

    num_images: generated images that it was computed from; None for a number that does not depend on that.
    """
    found = NUMBERS[key]
    name, *others = found.name.split(" ")
    if published and found.inception_name:
        name = f"{name}-{published.suffix}" if published.suffix else found.inception_name.split(" ")[0]
    if num_images is not None and num_images < FULL_PROTOCOL_SAMPLES:
        thousands, rest = divmod(num_images, 1000)
        name = f"{name}-{thousands}k" if thousands and not rest else f"{name}-{num_images}"
    return " ".join([name, *others])


def display_names(
    *, published: PublishedWeights | None, num_generated: int, num_manifold: int | None = None
) -> dict[str, str]:
    """Name in print of every number; num_manifold: generated images whose features are kept, None for all."""
    num_manifold = num_generated if num_manifold is None else num_manifold
    # An accuracy is a mean over images; the expectations of all other numbers depend on the count of images.
    counts = {"features": num_manifold, "labels": None}
    return {
        item.key: display_name(item.key, published=published, num_images=counts.get(metric.looks_at, num_generated))
        for metric in METRICS
        for item in metric.numbers
    }


class Row(NamedTuple):
    """One number as a table shows it; spread: its uncertainty in words, empty where nothing is known."""

    key: str
    name: str
    value: str
    spread: str


def rows_of(report: Report) -> list[Row]:
    """The numbers of a report in the order of a table."""
    spreads = {key: words(report) for key, words in UNCERTAINTY.items() if key in report.metrics}
    return [
        Row(key, shown_name(report, key), number(report.metrics[key]), spreads.get(key, ""))
        for key in in_order(report.metrics)
    ]


def in_order(keys: Collection[str]) -> list[str]:
    """Keys of numbers in the order of a table, without deviations."""
    return [key for key, item in NUMBERS.items() if key in keys and not item.is_deviation]


def worst_classes(report: Report) -> list[tuple[str, str]]:
    """The classes of the lowest accuracy, and these accuracies."""
    ranked = sorted(report.per_class_accuracy.items(), key=lambda item: item[1])
    return [(name, f"{accuracy:.4f}") for name, accuracy in ranked[:_WORST_CLASSES]]


def format_report(report: Report) -> str:
    """A report as plain text: numbers, reasons for those that are missing, the worst classes, and the protocol."""
    rows, extractor = rows_of(report), report.protocol["extractor"]["name"]
    values = aligned([row.value for row in rows])
    blocks = (
        columns([[row.name, value, row.spread, extractor] for row, value in zip(rows, values, strict=True)]),
        _listed("absent", [(shown_name(report, key), reason) for key, reason in report.absent.items()]),
        _listed("lowest accuracy of a class", worst_classes(report)),
        _protocol_lines(report.protocol),
    )
    return "\n\n".join("\n".join(lines) for lines in blocks if lines)


def _listed(heading: str, rows: Sequence[Sequence[str]]) -> list[str]:
    return [heading, *(f"  {line}" for line in columns(rows))] if rows else []


def columns(rows: Sequence[Sequence[str]], *, right: bool = False) -> list[str]:
    """Rows of cells as lines; right: columns but the first are flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    pad = str.rjust if right else str.ljust
    return ["  ".join([row[0].ljust(widths[0]), *map(pad, row[1:], widths[1:])]).rstrip() for row in rows]


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


def _protocol_lines(protocol: Mapping[str, Any]) -> list[str]:
    """A block of lines for each part of the protocol, and one for the making of the samples."""
    parts: dict[str, list[str]] = {}
    for name, value in flat_protocol(protocol).items():
        part, _, field = name.partition(".")
        if name.startswith("generated.sampling."):
            part, field = "sampling", field.removeprefix("sampling.")
        if value is not None:
            parts.setdefault(part, []).append(f"{field.replace('_', ' ')} {word(value)}")
    if all(item.endswith(UNKNOWN) for item in parts["sampling"]):
        parts["sampling"] = [UNKNOWN]
    return [_wrapped(f"{part:<12}", words) for part, words in parts.items()]


def _wrapped(title: str, words: Sequence[str]) -> str:
    """Title and words, broken into lines between words only."""
    whole = ", ".join(word.replace(" ", _NO_BREAK) for word in words)
    filled = textwrap.fill(
        whole, PRINT_WIDTH, initial_indent=title, subsequent_indent=" " * len(title),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return filled.replace(_NO_BREAK, " ")
