"""Comparison of two or more evaluations: their numbers, and the differences between their protocols.

A difference is decisive if it changes numbers by itself. Other differences are the subject of the comparison, or
irrelevant.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .metrics import METRICS
from .protocol import NONE, UNKNOWN, flat_protocol
from .report import Report, number, read_report, shown_name
from .report_text import aligned, columns, in_order, word

NOT_RECORDED = "not recorded"
_NOT_KNOWN = frozenset({NOT_RECORDED, UNKNOWN})

_DECISIVE_FOR_ALL: Mapping[str, str] = {
    "generated.num_images": "N generated",
    "real.num_images": "N real",
    "real.images": "real images",
    "real.sha256": "real file",
    "real.files_sha256": "real files (names, sizes, times of change)",
    "extractor.sha256": "extractor",
    "generated.image_size": "generated image size",
    "real.image_size": "real image size",
    "generated.channels": "generated channels",
    "generated.resize": "generated resize",
    "real.resize": "real resize",
    "arithmetic.features": "arithmetic of features",
}
"""Protocol fields across which no numbers can be compared, and their names in print; each metric adds its own."""
_IF_NEEDED = "where the size differs"
"""Part of the name of a resize that leaves images of the right size as they are."""
_IDENTITY = ("features.mean_norm", "features.total_variance")
"""Fields of a set, relative differences of which are below 1e-5 for the same images: float32 rounding stays below, and
decoders that differ in a few grey levels."""
_SAMPLING = ("generated.sampling.", "generated.sha256", "generated.files_sha256")
"""Beginnings of the fields that are the subject of a comparison."""
Kind = Literal["decisive", "unknown", "subject", "other"]
_HEADINGS: Mapping[Kind, str] = {
    "decisive": "Differences that make the numbers incomparable",
    "unknown": "Not known of all, and decisive if different",
    "subject": "Subject of the comparison",
    "other": "Other differences",
}


@dataclass(frozen=True)
class Difference:
    """A field that differs between protocols: its kind, its name, and each protocol's value in words."""

    kind: Kind
    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Evaluations side by side, and the differences between their protocols."""

    paths: tuple[Path, ...]
    reports: tuple[Report, ...]
    differences: tuple[Difference, ...]

    @property
    def letters(self) -> list[str]:
        """Names of the evaluations in tables: A, B, .., or numbers where letters do not suffice."""
        return _letters(len(self.paths))

    @property
    def verdict(self) -> str:
        """The comparability of the numbers, in one line."""
        if decisive := self.of("decisive"):
            reasons = (f"{item.name} differs ({' against '.join(_known(item.values))})" for item in decisive)
            return f"NOT comparable: {'; '.join(reasons)}"
        if unknown := self.of("unknown"):
            return f"comparable as far as is known; not known of all: {', '.join(item.name for item in unknown)}"
        return "comparable"

    @property
    def groups(self) -> dict[str, list[Difference]]:
        """All differences under their headings, without empty groups."""
        return {heading: found for kind, heading in _HEADINGS.items() if (found := self.of(kind))}

    def of(self, kind: Kind) -> list[Difference]:
        """The differences of one kind."""
        return [item for item in self.differences if item.kind == kind]


def compare_reports(paths: Sequence[Path]) -> Comparison:
    """The comparison of the evaluations in files.

    Raises:
        FileNotFoundError: a file that is missing.
        ValueError: fewer than two files, or one that is no evaluation record.
    """
    if len(paths) < 2:
        raise ValueError(f"a comparison takes two evaluation records or more, got {len(paths)}")
    reports = tuple(read_report(path) for path in paths)
    protocols = [_flat(report) for report in reports]
    images = {side: _same_images(protocols, side) for side in ("generated", "real")}
    if images["real"]:
        protocols = [one | {"real.images": words} for one, words in zip(protocols, images["real"], strict=True)]
    decisive = _decisive(reports, protocols)
    hidden = [f"{side}.{name}" for side in images for name in _IDENTITY]
    names = dict.fromkeys([*decisive, *(name for one in protocols for name in one if name not in hidden)])
    differences: list[Difference] = []
    for name in names:
        values = [protocol.get(name, NOT_RECORDED) for protocol in protocols]
        if any(value != values[0] or value == NOT_RECORDED for value in values):
            words = tuple(_word(name, value) for value in values)
            differences.append(
                Difference(_kind(name, words, decisive), decisive.get(name, name.removeprefix(_SAMPLING[0])), words)
            )
    if len(set(images["generated"])) > 1 and not any(item.kind == "subject" for item in differences):
        differences.append(Difference("unknown", "why the generated images differ", tuple(images["generated"])))
    return Comparison(tuple(paths), reports, tuple(differences))


def format_comparison(comparison: Comparison) -> str:
    """A comparison as plain text: numbers and their differences, the verdict, and what differs in the protocols."""
    letters = comparison.letters
    head, rows = metric_table(comparison)
    blocks = [
        [f"{letter}  {path}" for letter, path in zip(letters, comparison.paths, strict=True)],
        columns([head, *rows], right=True),
        [comparison.verdict],
    ]
    for heading, differences in comparison.groups.items():
        cells = [["", *letters], *([item.name, *item.values] for item in differences)]
        blocks.append([heading, *(f"  {line}" for line in columns(cells))])
    return "\n\n".join("\n".join(lines) for lines in blocks)


def metric_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table: name, each evaluation's value, and the differences from the first."""
    letters, reports = comparison.letters, comparison.reports
    keys = in_order(set[str]().union(*(report.metrics for report in reports)))
    names = [
        " / ".join(dict.fromkeys(shown_name(report, key) for report in reports if key in report.metrics))
        for key in keys
    ]
    values = [[_value(report, key) for key in keys] for report in reports]
    steps = [[_step(reports[0], report, key) for key in keys] for report in reports[1:]]
    head = ["", *letters, *(f"{letter} - {letters[0]}" for letter in letters[1:])]
    return head, [list(row) for row in zip(names, *map(aligned, values), *map(aligned, steps), strict=True)]


def _decisive(reports: Sequence[Report], protocols: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Fields across which the numbers that several reports have cannot be compared, and their names in print."""
    measured = Counter(key for report in reports for key in report.metrics)
    fields = dict(_DECISIVE_FOR_ALL)
    for metric in METRICS:
        if any(measured[item.key] > 1 for item in metric.numbers):
            fields |= metric.decisive_fields
    # The best identity of the real images decides: their features; else the content, if all sides are single files;
    # else names, sizes and dates.
    if all("real.images" in protocol for protocol in protocols):
        weaker = ("real.sha256", "real.files_sha256", "real.resize")
    else:
        are_files = all("real.sha256" in protocol for protocol in protocols)
        weaker = ("real.images", "real.files_sha256" if are_files else "real.sha256")
    return {field: name for field, name in fields.items() if field not in weaker}


def _same_images(protocols: Sequence[Mapping[str, Any]], side: str) -> list[str]:
    """For each protocol, words for the first that has the same images; empty unless all have features of one
    extractor."""
    names = [f"{side}.{name}" for name in _IDENTITY]
    one_extractor = len({protocol.get("extractor.sha256") for protocol in protocols}) == 1
    if not one_extractor or not all(name in protocol for protocol in protocols for name in names):
        return []

    def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        return all(math.isclose(one[name], other[name], rel_tol=1e-5) for name in names)

    firsts = [next(n for n, other in enumerate(protocols) if same(other, protocol)) for protocol in protocols]
    return [f"those of {_letters(len(protocols))[first]}" for first in firsts]


def _letters(count: int) -> list[str]:
    return [chr(ord("A") + n) if count <= 26 else str(n + 1) for n in range(count)]


def _kind(name: str, words: Sequence[str], decisive: Collection[str]) -> Kind:
    if name in decisive:
        known = _known(words)
        if name.endswith(".resize") and any(_IF_NEEDED in word for word in known):
            known = [word for word in known if word != NONE]  # the resize may have had nothing to do
        return "decisive" if len(known) > 1 else "unknown"
    return "subject" if name.startswith(_SAMPLING) else "other"


def _known(words: Iterable[str]) -> list[str]:
    """The different values among them."""
    return [word for word in dict.fromkeys(words) if word not in _NOT_KNOWN]


def _flat(report: Report) -> dict[str, Any]:
    """A report's protocol under dotted names. For stored statistics, the files are those that they were made of."""
    values = flat_protocol(report.protocol)
    if values:
        values.setdefault("generated.order", "as stored")  # reports that lack the field are of unshuffled samples
    originals = values.get("real.record.files_sha256")
    return values if originals is None else values | {"real.files_sha256": originals}


def _word(name: str, value: Any) -> str:  # a plain value
    is_count = isinstance(value, int) and not isinstance(value, bool) and not name.startswith(_SAMPLING)
    return f"{value:,}" if is_count else word(value)


def _value(report: Report, key: str) -> str:
    return number(report.metrics[key]) if key in report.metrics else "absent"


def _step(first: Report, other: Report, key: str) -> str:
    """From the first's number to the other's, with as many decimals as these are shown with."""
    if key not in first.metrics or key not in other.metrics:
        return ""
    decimals = max(len(_value(report, key).partition(".")[2]) for report in (first, other))
    return f"{other.metrics[key] - first.metrics[key]:+.{decimals}f}"
