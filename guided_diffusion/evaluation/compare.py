"""Two or more evaluations beside each other: their numbers, and what their protocols do not have in common.

A difference is decisive if it moves numbers whatever is measured; others are what the comparison is about, or neither.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .protocol import NONE, UNKNOWN, flat_protocol
from .report import Report, aligned, in_order, number, read_report, shown_name, word

NOT_RECORDED = "not recorded"
_NOT_KNOWN = frozenset({NOT_RECORDED, UNKNOWN})
ABSENT = "absent"

_EVERY: frozenset[str] = frozenset()
_NEIGHBOURHOODS = frozenset({"precision", "recall", "density", "coverage", "kernel_distance"})
_DECISIVE: Mapping[str, tuple[str, frozenset[str]]] = {
    "generated.num_images": ("N generated", _EVERY),
    "real.num_images": ("N real", _EVERY),
    "real.images": ("real images", _EVERY),
    "real.sha256": ("real file", _EVERY),
    "real.files_sha256": ("real files (names, sizes, times of change)", _EVERY),
    "extractor.sha256": ("extractor", _EVERY),
    "generated.image_size": ("generated image size", _EVERY),
    "real.image_size": ("real image size", _EVERY),
    "generated.channels": ("generated channels", _EVERY),
    "generated.resize": ("generated resize", _EVERY),
    "real.resize": ("real resize", _EVERY),
    "arithmetic.features": ("arithmetic of features", _EVERY),
    "generated.order": ("order of the generated images", frozenset({"inception_score"})),
    "settings.split_size": ("Inception Score's split size", frozenset({"inception_score"})),
    "generated.num_manifold_images": ("N generated of precision and recall", _NEIGHBOURHOODS),
    "real.num_manifold_images": ("N real of precision and recall", _NEIGHBOURHOODS),
    "settings.neighbours": ("k of precision and recall", frozenset({"precision", "recall"})),
    "settings.density_neighbours": ("k of density and coverage", frozenset({"density", "coverage"})),
    "settings.kid_subsets": ("number of KID's subsets", frozenset({"kernel_distance"})),
    "settings.kid_subset_size": ("size of KID's subsets", frozenset({"kernel_distance"})),
}
"""What numbers cannot be compared across: its name in print, and which metrics it moves; `_EVERY`: all of them."""
_RESIZES = frozenset({"generated.resize", "real.resize"})
_IF_NEEDED = "where the size differs"
"""Of a way to resize that leaves images of the right size as they are."""
_FEATURES = ("features.mean_norm", "features.total_variance")
_HASHES = ("real.sha256", "real.files_sha256")
_SAME_IMAGES = 1e-5
"""Relative difference of the real side's features up to which they are of the same images: float32 stays below, and so
do decoders that differ in a grey level here and there."""
_COMPARED = ("generated.sampling.", "generated.sha256", "generated.files_sha256")
"""What is being compared begins with one of these."""
_NEVER_LISTED = ("generated.images", *(f"{side}.{name}" for side in ("generated", "real") for name in _FEATURES))
"""What says of images which they are, but nothing to a reader."""
_UNEXPLAINED = "why the generated images differ"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What the protocols do not have in common: its name, and each protocol's value in words."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Evaluations beside each other.

    decisive: what makes numbers incomparable. untold: what would, but is not known of all. compared: how the samples
    were made. rest: what moves a last digit at most, or only names things.
    """

    paths: tuple[Path, ...]
    reports: tuple[Report, ...]
    decisive: tuple[Difference, ...]
    untold: tuple[Difference, ...]
    compared: tuple[Difference, ...]
    rest: tuple[Difference, ...]

    @property
    def letters(self) -> tuple[str, ...]:
        """What the evaluations are called in tables: A, B, .., or numbers where letters do not suffice."""
        return _letters(len(self.paths))

    @property
    def verdict(self) -> str:
        """Whether the numbers may be compared, in one line."""
        if self.decisive:
            said = (f"{item.name} differs ({' against '.join(_known(item.values))})" for item in self.decisive)
            return f"NOT comparable: {'; '.join(said)}"
        if self.untold:
            return f"comparable as far as is known; not known of all: {', '.join(item.name for item in self.untold)}"
        return "comparable"

    @property
    def groups(self) -> dict[str, tuple[Difference, ...]]:
        """All differences under their headings; of groups without any, none."""
        headings = {
            "What makes numbers not comparable": self.decisive,
            "What would, and is not known of all": self.untold,
            "What is being compared": self.compared,
            "The rest": self.rest,
        }
        return {heading: differences for heading, differences in headings.items() if differences}


def compared(paths: Sequence[Path]) -> Comparison:
    """The evaluations in files, beside each other.

    Raises:
        FileNotFoundError, ValueError: fewer than two files, or one that is no evaluation record.
    """
    if len(paths) < 2:
        raise ValueError(f"a comparison takes two evaluation records or more, got {len(paths)}")
    reports = tuple(read_report(path) for path in paths)
    protocols = [_told(report) for report in reports]
    for side in ("generated", "real"):
        protocols = _with_same_images(protocols, side=side)
    measured = Counter(metric for report in reports for metric in report.metrics)
    decisive = _decisive(protocols, metrics={metric for metric, times in measured.items() if times > 1})
    names = dict.fromkeys(name for protocol in protocols for name in protocol if name not in _NEVER_LISTED)
    found: dict[str, list[Difference]] = {"decisive": [], "untold": [], "compared": [], "rest": []}
    for name in [*decisive, *(name for name in names if name not in decisive)]:
        values = [protocol.get(name, NOT_RECORDED) for protocol in protocols]
        if all(value == values[0] != NOT_RECORDED for value in values):
            continue
        words = tuple(_word(name, value) for value in values)
        group = _group(name, words, decisive=decisive.keys())
        found[group].append(Difference(name=decisive.get(name, name.removeprefix(_COMPARED[0])), values=words))
    images = tuple(protocol.get("generated.images", NOT_RECORDED) for protocol in protocols)
    if len(_known(images)) > 1 and not found["compared"]:
        found["untold"].append(Difference(name=_UNEXPLAINED, values=images))
    groups = {group: tuple(differences) for group, differences in found.items()}
    return Comparison(paths=tuple(paths), reports=reports, **groups)


def format_comparison(comparison: Comparison) -> str:
    """A comparison as plain text: numbers and their differences, the verdict, and what differs in the protocols."""
    letters = comparison.letters
    head, rows = metric_table(comparison)
    blocks = [
        [f"{letter}  {path}" for letter, path in zip(letters, comparison.paths, strict=True)],
        _columns([head, *rows], align=str.rjust),
        [comparison.verdict],
    ]
    for heading, differences in comparison.groups.items():
        cells = [["", *letters], *([item.name, *item.values] for item in differences)]
        blocks.append([heading, *(f"  {line}" for line in _columns(cells, align=str.ljust))])
    return "\n\n".join("\n".join(lines) for lines in blocks)


def metric_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table: name, each evaluation's value, and the differences from the first."""
    letters, reports = comparison.letters, comparison.reports
    metrics = in_order(set[str]().union(*(report.metrics for report in reports)))
    names = [_name(metric, reports) for metric in metrics]
    values = [[_value(report, metric) for metric in metrics] for report in reports]
    steps = [[_step(reports[0], report, metric) for metric in metrics] for report in reports[1:]]
    head = ["", *letters, *(f"{letter} - {letters[0]}" for letter in letters[1:])]
    return head, [list(row) for row in zip(names, *map(aligned, values), *map(aligned, steps), strict=True)]


def _decisive(protocols: Sequence[Mapping[str, Any]], *, metrics: set[str]) -> dict[str, str]:
    """What of `_DECISIVE` decides about numbers of these metrics, and what it is called."""
    leaves_open = _undecided(protocols)
    return {
        name: said
        for name, (said, moved) in _DECISIVE.items()
        if (not moved or moved & metrics) and name not in leaves_open
    }


def _undecided(protocols: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """What does not tell whether the real images are the same, because something else does so better: their features;
    else the files' content, if all sides are single files; else names, sizes and dates."""
    if all("real.images" in protocol for protocol in protocols):
        return (*_HASHES, "real.resize")
    are_files = all("real.sha256" in protocol for protocol in protocols)
    return ("real.images", "real.files_sha256" if are_files else "real.sha256")


def _with_same_images(protocols: Sequence[dict[str, Any]], *, side: str) -> list[dict[str, Any]]:
    """The protocols with "SIDE.images", the first among them whose images are the same, if their features, of one
    extractor, tell that."""
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
        return "decisive" if len(known) > 1 else "untold"
    return "compared" if name.startswith(_COMPARED) else "rest"


def _known(words: Iterable[str]) -> list[str]:
    """The different values among them."""
    return [word for word in dict.fromkeys(words) if word not in _NOT_KNOWN]


def _told(report: Report) -> dict[str, Any]:
    """A report's protocol under dotted names, old ones as new ones have it. Statistics that are stored stand for the
    files they are of."""
    told = flat_protocol(report.protocol)
    if told:
        told.setdefault("generated.order", "as stored")  # nobody shuffled before that was said
    originals = told.get("real.record.files_sha256")
    return told if originals is None else told | {"real.files_sha256": originals}


def _word(name: str, value: Any) -> str:  # a plain value
    is_count = isinstance(value, int) and not isinstance(value, bool) and not name.startswith(_COMPARED)
    return f"{value:,}" if is_count else word(value)


def _name(metric: str, reports: Sequence[Report]) -> str:
    return " / ".join(dict.fromkeys(shown_name(report, metric) for report in reports if metric in report.metrics))


def _value(report: Report, metric: str) -> str:
    return number(report.metrics[metric]) if metric in report.metrics else ABSENT


def _step(first: Report, other: Report, metric: str) -> str:
    """From the first's number to the other's, with as many decimals as these are shown with."""
    if metric not in first.metrics or metric not in other.metrics:
        return ""
    decimals = max(len(_value(report, metric).partition(".")[2]) for report in (first, other))
    return f"{other.metrics[metric] - first.metrics[metric]:+.{decimals}f}"


def _columns(rows: Sequence[Sequence[str]], *, align: Callable[[str, int], str]) -> list[str]:
    """Rows of cells as lines, the first column flush left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(align, row[1:], widths[1:])]).rstrip() for row in rows]
