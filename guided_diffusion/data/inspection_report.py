"""What was found in a data set, as lines for people and as a record for programs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .crops import CHANNELS

NAMED_FILES = 20
"""Broken files that the report names."""
NAMED_DUPLICATES = 5
"""Sets of equal files that the report names."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """All that was found."""

    path: Path
    problem: str | None
    """What a training would refuse the data for before it reads any image; None if nothing."""
    class_counts: dict[str, int]
    sizes: NDArray[np.int64]
    """(N, 2) widths and heights of the images that decode, pixels."""
    formats: Counter[str]
    modes: Counter[str]
    broken: tuple[tuple[Path, str], ...]
    """Files and what is wrong with them."""
    duplicates: tuple[tuple[Path, ...], ...]
    """Sets of files with the same bytes."""
    across_classes: int
    """How many of these sets hold files of more than one class."""


def report_lines(found: Inspection, *, size: int | None) -> list[str]:
    """The report for people. size: as of `InspectConfig`."""
    total = sum(found.class_counts.values())
    refusal = [] if found.problem is None else [f"refused     a training would end with: {found.problem}"]
    return [
        f"{found.path}: {total:,} images in {_counted(len(found.class_counts), 'class', 'classes')}",
        *refusal,
        f"classes     {_balance(found.class_counts)}",
        *_sides(found.sizes, size),
        f"formats     {_shares(found.formats)}",
        f"modes       {_shares(found.modes)}{_mode_advice(found.modes)}",
        *_broken_lines(found),
        *_duplicate_lines(found),
    ]


def _balance(counts: dict[str, int]) -> str:
    smallest, largest = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    low, high = counts[smallest], counts[largest]
    if low == high:
        return f"{_some(list(counts))}: balanced, {_counted(low, 'image', 'images')} each"
    often = f"{high / low:.3g} times as many" if low else "the smallest is empty"
    extremes = f"{_counted(low, 'image', 'images')} ({smallest}) to {high:,} ({largest})"
    return f"{_some(list(counts))}: from {extremes}, {often}"


def _sides(sizes: NDArray[np.int64], size: int | None) -> list[str]:
    if not len(sizes):
        return []
    shorter = sizes.min(axis=1)
    lines = [
        f"{name:<12}{side.min()} to {side.max()} pixels, median {np.median(side):g}"
        for name, side in (("width", sizes[:, 0]), ("height", sizes[:, 1]), ("shorter", shorter))
    ]
    if size is not None:
        small = int((shorter < size).sum())
        share = f" ({small / len(sizes):.1%}), which training would enlarge" if small else ""
        lines.append(f"below {size:<6}{small:,} images{share}")
    return lines


def _mode_advice(modes: Counter[str]) -> str:
    if len(modes) > 1 or not modes.keys() <= CHANNELS.keys():
        return "; training needs --data.mode RGB (or L), which converts them"
    return ""


def _broken_lines(found: Inspection) -> list[str]:
    named = [f"  {path}: {damage}" for path, damage in found.broken[:NAMED_FILES]]
    return [f"broken      {_counted(len(found.broken), 'file', 'files')}{_first(found.broken, NAMED_FILES)}", *named]


def _duplicate_lines(found: Inspection) -> list[str]:
    files = sum(map(len, found.duplicates))
    named = [f"  {' = '.join(map(str, group))}" for group in found.duplicates[:NAMED_DUPLICATES]]
    sets = f" in {_counted(len(found.duplicates), 'set', 'sets')} of equal ones" if files else ""
    across = f", {found.across_classes:,} of them across classes" if found.across_classes else ""
    cut = _first(found.duplicates, NAMED_DUPLICATES)
    return [f"duplicates  {_counted(files, 'file', 'files')}{sets}{across}{cut}", *named]


def _first(things: Sequence[object], most: int) -> str:
    return f"; the first {most}:" if len(things) > most else ":" if things else ""


def _counted(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}" if count else f"no {many}"


def _shares(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common()) or "none"


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names if len(names) <= most else [*names[: most - 1], "..", names[-1]])


def report_record(found: Inspection) -> dict[str, Any]:
    """The report for programs, JSON values: all broken files and all duplicates are named."""
    return {
        "path": str(found.path),
        "refused": found.problem,
        "class_counts": found.class_counts,
        "sides": {
            name: {"smallest": int(side.min()), "median": float(np.median(side)), "largest": int(side.max())}
            for name, side in (("width", found.sizes[:, 0]), ("height", found.sizes[:, 1]))
            if len(side)
        },
        "formats": dict(found.formats),
        "modes": dict(found.modes),
        "broken": {str(path): damage for path, damage in found.broken},
        "duplicates": [[str(path) for path in group] for group in found.duplicates],
        "duplicate_sets_across_classes": found.across_classes,
    }
