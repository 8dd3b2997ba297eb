"""The report of an evaluation as a record, its JSON file, and the format of its numbers."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..files import write_json

_KEYS = {"warnings": "doubts"}
"""JSON keys that differ from the names of a Report's fields."""


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
    keys = {part.name: _KEYS.get(part.name, part.name) for part in fields(Report)}
    parts = {name: stored[key] for name, key in keys.items() if key in stored}
    wrong = [keys[name] for name, value in parts.items() if not isinstance(value, list if name == "warnings" else dict)]
    if not wrong:
        wrong += [name for name, value in parts["metrics"].items() if not isinstance(value, int | float)]
        wrong += [name for name, value in parts["protocol"].items() if not isinstance(value, dict)]
    if wrong:
        raise ValueError(f"{path} is damaged: its {wrong[0]} is of another kind than in an evaluation record; {advice}")
    return Report(**parts)


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
