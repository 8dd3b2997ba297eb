"""The report of an evaluation as a record, its JSON file, and the format of its numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..files import write_json
from ..records import DamagedRecordError, Fields, read_record

_KEYS = {"warnings": "doubts"}
"""JSON keys that differ from the names of a Report's fields."""
_FIELDS: Fields = {
    "metrics": dict[str, float],
    "absent": dict[str, str] | None,
    "per_class_accuracy": dict[str, float] | None,
    "details": dict[str, Any] | None,
    "doubts": list[str] | None,
    "protocol": dict[str, dict[str, Any]],
    "display_names": dict[str, str] | None,
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """Numbers of an evaluation, and the protocol that they hold under.

    metrics: by key. absent: the reason for each number that is missing. per_class_accuracy: by class name. details:
    JSON values behind the numbers. warnings: reasons to doubt them. protocol: see `protocol_record`. display_names:
    names of the numbers in print.
    """

    metrics: Mapping[str, float]
    absent: Mapping[str, str] = field(default_factory=dict)
    per_class_accuracy: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = field(default_factory=list)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    display_names: Mapping[str, str] = field(default_factory=dict)


def write_report(path: Path, report: Report) -> None:
    """Write a report as JSON, atomically."""
    write_json(path, {_KEYS.get(part.name, part.name): getattr(report, part.name) for part in fields(Report)})


def read_report(path: Path) -> Report:
    """The report in a JSON file, of which older ones may lack parts.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is no report, naming the field that it lacks or that is damaged.
    """
    advice = "give the JSON file that scripts/evaluate.py wrote"
    if not path.is_file():
        raise FileNotFoundError(f"there is no evaluation record {path}; {advice}")
    try:
        stored = read_record(path, _FIELDS)
    except DamagedRecordError as error:
        raise ValueError(f"{error}; {advice}") from None
    names = {part.name: _KEYS.get(part.name, part.name) for part in fields(Report)}
    return Report(**{name: stored[key] for name, key in names.items() if stored[key] is not None})


def shown_name(report: Report, key: str) -> str:
    """Name of a number in print."""
    return report.display_names.get(key, key)


def number(value: float) -> str:
    """A number with four significant digits and at least two decimals: 3.943, 215.84, 0.002134."""
    size = abs(value)
    if not size:
        return "0"
    if not 1e-4 <= size < 1e6:
        return f"{value:.3e}"
    return f"{value:.{max(2, 3 - math.floor(math.log10(size)))}f}"
