"""Comparison of two or more evaluations: their numbers, and the differences between their protocols.

A difference is decisive if it changes numbers by itself. Other differences are the subject of the comparison, or
irrelevant.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .metrics import METRICS
from .protocol import NONE, UNKNOWN, flat_protocol
from .report import Report, number, read_report, shown_name
from .report_text import aligned, columns, in_order, word

NOT_RECORDED = "not recorded"
_NOT_KNOWN = frozenset({NOT_RECORDED, UNKNOWN})
ABSENT = "absent"

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
_RESIZES = frozenset({"generated.resize", "real.resize"})
_IF_NEEDED = "where the size differs"
"""Part of the name of a resize that leaves images of the right size as they are."""
_FEATURES = ("features.mean_norm", "features.total_variance")
_HASHES = ("real.sha256", "real.files_sha256")
_SAME_IMAGES = 1e-5
"""Relative difference of features below which the images count as the same: float32 rounding stays below, and so do
decoders that differ in a few grey levels."""
_COMPARED = ("generated.sampling.", "generated.sha256", "generated.files_sha256")
"""Beginnings of the fields that are the subject of a comparison."""
_NEVER_LISTED = ("generated.images", *(f"{side}.{name}" for side in ("generated", "real") for name in _FEATURES))
"""Fields that identify images but tell a reader nothing."""
_UNEXPLAINED = "why the generated images differ"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A field that differs between protocols: its name, and each protocol's value in words."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Evaluations side by side, and their differences.

    decisive: those that make numbers incomparable. unknown: fields that would, but are not known of all. compared: the
    making of the samples. rest: those that change a last digit at most, or only names.
    """

    paths: tuple[Path, ...]
    reports: tuple[Report, ...]
    decisive: tuple[Difference, ...]
    unknown: tuple[Difference, ...]
    compared: tuple[Difference, ...]
    rest: tuple[Difference, ...]

    @property
    def letters(self) -> tuple[str, ...]:
        """Names of the evaluations in tables: A, B, .., or numbers where letters do not suffice."""
        return _letters(len(self.paths))

    @property
    def verdict(self) -> str:
        """The comparability of the numbers, in one line."""
        if self.decisive:
            reasons = (f"{item.name} differs ({' against '.join(_known(item.values))})" for item in self.decisive)
            return f"NOT comparable: {'; '.join(reasons)}"
        if self.unknown:
            return f"comparable as far as is known; not known of all: {', '.join(item.name for item in self.unknown)}"
        return "comparable"

    @property
    def groups(self) -> dict[str, tuple[Difference, ...]]:
        """All differences under their headings, without empty groups."""
        headings = {
            "Differences that make the numbers incomparable": self.decisive,
            "Not known of all, and decisive if different": self.unknown,
            "Subject of the comparison": self.compared,
            "Other differences": self.rest,
        }
        return {heading: differences for heading, differences in headings.items() if differences}


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
    for side in ("generated", "real"):
        protocols = _with_same_images(protocols, side=side)
    measured = Counter(key for report in reports for key in report.metrics)
    decisive = _decisive(protocols, keys={key for key, times in measured.items() if times > 1})
    names = dict.fromkeys(name for protocol in protocols for name in protocol if name not in _NEVER_LISTED)
    found: dict[str, list[Difference]] = {"decisive": [], "unknown": [], "compared": [], "rest": []}
    for name in [*decisive, *(name for name in names if name not in decisive)]:
        values = [protocol.get(name, NOT_RECORDED) for protocol in protocols]
        if all(value == values[0] != NOT_RECORDED for value in values):
            continue
        words = tuple(_word(name, value) for value in values)
        group = _group(name, words, decisive=decisive.keys())
        found[group].append(Difference(name=decisive.get(name, name.removeprefix(_COMPARED[0])), values=words))
    images = tuple(protocol.get("generated.images", NOT_RECORDED) for protocol in protocols)
    if len(_known(images)) > 1 and not found["compared"]:
        found["unknown"].append(Difference(name=_UNEXPLAINED, values=images))
    groups = {group: tuple(differences) for group, differences in found.items()}
    return Comparison(paths=tuple(paths), reports=reports, **groups)


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
    names = [_name(key, reports) for key in keys]
    values = [[_value(report, key) for key in keys] for report in reports]
    steps = [[_step(reports[0], report, key) for key in keys] for report in reports[1:]]
    head = ["", *letters, *(f"{letter} - {letters[0]}" for letter in letters[1:])]
    return head, [list(row) for row in zip(names, *map(aligned, values), *map(aligned, steps), strict=True)]


def _decisive(protocols: Sequence[Mapping[str, Any]], *, keys: set[str]) -> dict[str, str]:
    """Decisive fields for numbers of these keys, and their names in print."""
    fields = dict(_DECISIVE_FOR_ALL)
    for metric in METRICS:
        if keys & {item.key for item in metric.numbers}:
            fields |= metric.decisive_fields
    undecided = _undecided(protocols)
    return {field: name for field, name in fields.items() if field not in undecided}


def _undecided(protocols: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Fields that do not decide about the real images, because a better one does: their features; else the files'
    content, if all sides are single files; else names, sizes and dates."""
    if all("real.images" in protocol for protocol in protocols):
        return (*_HASHES, "real.resize")
    are_files = all("real.sha256" in protocol for protocol in protocols)
    return ("real.images", "real.files_sha256" if are_files else "real.sha256")


def _with_same_images(protocols: Sequence[dict[str, Any]], *, side: str) -> list[dict[str, Any]]:
    """The protocols with "SIDE.images", the first among them with the same images, if all have features of one
    extractor."""
    names = [f"{side}.{name}" for name in _FEATURES]
    one_extractor = len({protocol.get("extractor.sha256") for protocol in protocols}) == 1
    if not one_extractor or not all(name in protocol for protocol in protocols for name in names):
        return list(protocols)

    def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        return all(math.isclose(one[name], other[name], rel_tol=_SAME_IMAGES) for name in names)

    firsts = [next(n for n, other in enumerate(protocols) if same(other, protocol)) for protocol in protocols]
    letters = _letters(len(protocols))
    return [
        protocol | {f"{side}.images": f"those of {letters[first]}"}
        for protocol, first in zip(protocols, firsts, strict=True)
    ]


def _letters(count: int) -> tuple[str, ...]:
    return tuple(chr(ord("A") + n) if count <= 26 else str(n + 1) for n in range(count))


def _group(name: str, words: Sequence[str], *, decisive: Iterable[str]) -> str:
    if name in decisive:
        known = _known(words)
        if name in _RESIZES and any(_IF_NEEDED in word for word in known):
            known = [word for word in known if word != NONE]  # which may be what that came to
        return "decisive" if len(known) > 1 else "unknown"
    return "compared" if name.startswith(_COMPARED) else "rest"


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
    is_count = isinstance(value, int) and not isinstance(value, bool) and not name.startswith(_COMPARED)
    return f"{value:,}" if is_count else word(value)


def _name(key: str, reports: Sequence[Report]) -> str:
    return " / ".join(dict.fromkeys(shown_name(report, key) for report in reports if key in report.metrics))


def _value(report: Report, key: str) -> str:
    return number(report.metrics[key]) if key in report.metrics else ABSENT


def _step(first: Report, other: Report, key: str) -> str:
    """From the first's number to the other's, with as many decimals as these are shown with."""
    if key not in first.metrics or key not in other.metrics:
        return ""
    decimals = max(len(_value(report, key).partition(".")[2]) for report in (first, other))
    return f"{other.metrics[key] - first.metrics[key]:+.{decimals}f}"
