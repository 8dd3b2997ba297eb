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
from .report_text import aligned, columns, in_order, listed, word

NOT_RECORDED = "not recorded"
_NOT_KNOWN = frozenset({NOT_RECORDED, UNKNOWN})

_DECISIVE_FOR_ALL: Mapping[str, str] = {
    "generated.num_images": "N generated",
    "real.num_images": "N real",
    "real.images": "real images",
    "extractor.sha256": "extractor",
    "generated.image_size": "generated image size",
    "real.image_size": "real image size",
    "generated.channels": "generated channels",
    "generated.resize": "generated resize",
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

Kind = Literal["decisive", "unknown", "subject", "other", "unrecorded"]
_HEADINGS: Mapping[Kind, str] = {
    "decisive": "Differences that make the numbers incomparable",
    "unknown": "Not known of all, and decisive if different",
    "subject": "Subject of the comparison",
    "other": "Other differences",
    "unrecorded": "Not known of any",
}


@dataclass(frozen=True)
class Difference:
    """A field that differs between protocols, or is known of none: its kind, name, and each value in words."""

    kind: Kind
    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Evaluations side by side, and the differences between their protocols."""

    paths: tuple[Path, ...]
    letters: tuple[str, ...]
    """Names of the evaluations in tables: A, B, .., or numbers where letters do not suffice."""
    reports: tuple[Report, ...]
    differences: tuple[Difference, ...]

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
    """The comparison of the evaluations in files, two at least."""
    if len(paths) < 2:
        raise ValueError(f"a comparison takes two evaluation records or more, got {len(paths)}")
    reports = tuple(map(read_report, paths))
    letters = tuple(chr(ord("A") + n) if len(paths) <= 26 else str(n + 1) for n in range(len(paths)))
    protocols = [flat_protocol(report.protocol) for report in reports]
    generated, real = (_same_images(protocols, side, letters) for side in ("generated", "real"))
    protocols = [one | {"real.images": words} for one, words in zip(protocols, real, strict=True)]
    measured = Counter(key for report in reports for key in report.metrics)
    decisive = dict(_DECISIVE_FOR_ALL)
    for metric in METRICS:
        if any(measured[item.key] > 1 for item in metric.numbers):
            decisive |= metric.decisive_fields
    names = dict.fromkeys([*decisive, *(name for one in protocols for name in one if not name.endswith(_IDENTITY))])
    differences: list[Difference] = []
    for name in names:
        values = [protocol.get(name, NOT_RECORDED) for protocol in protocols]
        is_unknown = all(isinstance(value, str) and value in _NOT_KNOWN for value in values)
        if is_unknown and name.startswith("real.") and len(set(real)) == 1 and real[0] != NOT_RECORDED:
            continue  # of the same images, all is the same
        if is_unknown or any(value != values[0] for value in values):
            words = tuple(_word(name, value) for value in values)
            shown = decisive.get(name, name.removeprefix(_SAMPLING[0]))
            differences.append(Difference(_kind(name, words, decisive), shown, words))
    if len(set(generated)) > 1 and not any(item.kind == "subject" for item in differences):
        differences.append(Difference("unknown", "why the generated images differ", generated))
    return Comparison(tuple(paths), letters, reports, tuple(differences))


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
        blocks.append(listed(heading, [["", *letters], *([item.name, *item.values] for item in differences)]))
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


def _same_images(protocols: Sequence[Mapping[str, Any]], side: str, letters: Sequence[str]) -> tuple[str, ...]:
    """For each protocol, words for the first that has the same images, as far as features of one extractor tell."""
    names = [f"{side}.{name}" for name in _IDENTITY]
    are_known = all(name in protocol for protocol in protocols for name in names)
    if not are_known or len({protocol.get("extractor.sha256") for protocol in protocols}) > 1:
        return (NOT_RECORDED,) * len(protocols)

    def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        return all(math.isclose(one[name], other[name], rel_tol=1e-5) for name in names)

    firsts = (next(n for n, other in enumerate(protocols) if same(other, protocol)) for protocol in protocols)
    return tuple(f"those of {letters[first]}" for first in firsts)


def _kind(name: str, words: Sequence[str], decisive: Collection[str]) -> Kind:
    if name in decisive:
        known = _known(words)
        if name.endswith(".resize") and any(_IF_NEEDED in word for word in known):
            known = [word for word in known if word != NONE]  # the resize may have had nothing to do
        return "decisive" if len(known) > 1 else "unknown"
    if not _known(words):
        return "unrecorded"
    return "subject" if name.startswith(_SAMPLING) else "other"


def _known(words: Iterable[str]) -> list[str]:
    """The different values among them."""
    return [word for word in dict.fromkeys(words) if word not in _NOT_KNOWN]


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
