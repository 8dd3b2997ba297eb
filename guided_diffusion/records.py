"""Records: JSON objects in files of the project's own, read with their fields checked."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from stat import S_ISREG
from types import UnionType
from typing import Any, Literal, NoReturn, Union, cast, get_args, get_origin

Fields = Mapping[str, Any]
"""Types of a record's fields by name: a scalar type, list[..], dict[str, ..], a union, Literal, Any or nested `Fields`.
A field that may be None may also be absent. Fields of other names are not looked at."""

MOST_BYTES = 1 << 28
"""Of a record's file, which is read whole; labels of ten million samples take a quarter of it."""


class DamagedRecordError(ValueError):
    """A file that is not the record that it should be."""


def read_record(path: Path, fields: Fields) -> dict[str, Any]:
    """The record in a file; fields that may be absent, and are, read as None.

    Raises:
        FileNotFoundError: no such file.
        DamagedRecordError: no JSON object, or a field that is missing or of another type, naming file and field.
    """
    status = path.stat()
    if not S_ISREG(status.st_mode):  # a pipe would keep the reader waiting
        raise DamagedRecordError(f"{path} is damaged: it is no regular file")
    if status.st_size > MOST_BYTES:
        raise DamagedRecordError(
            f"{path} is damaged: it has {status.st_size:,} bytes, and a record at most {MOST_BYTES:,}"
        )
    return parse_record(path.read_bytes(), fields, source=path)


def parse_record(content: bytes | str, fields: Fields, *, source: object) -> dict[str, Any]:
    """The record in JSON text, as `read_record`; source: the place of the text, for messages.

    Raises:
        DamagedRecordError: as in `read_record`.
    """
    try:
        record = json.loads(content, parse_constant=_not_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        reason = "its JSON is nested too deep" if isinstance(error, RecursionError) else error
        raise DamagedRecordError(f"{source} is damaged: {reason}") from None
    return check_record(record, fields, source=source)


def check_record(record: Any, fields: Fields, *, source: object) -> dict[str, Any]:
    """A plain value as a record of these fields, as `read_record`.

    Raises:
        DamagedRecordError: as in `read_record`.
    """
    if not isinstance(record, dict):
        raise DamagedRecordError(
            f"{source} is damaged: it holds {in_short(record, most=60)} where an object was expected"
        )
    found = cast(dict[str, Any], record)
    for name, kind in fields.items():
        if wrong := _misfit(found.get(name), kind, name):
            absence = "" if name in found else f"; it has no {name}"
            raise DamagedRecordError(f"{source} is damaged: {wrong}{absence}")
    return dict.fromkeys(fields) | found


def _misfit(value: Any, kind: Any, name: str) -> str | None:
    """A description of the first part of a value that is of another type, None where it fits."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any or (origin is Literal and value in arguments):
        return None
    if origin in (Union, UnionType):
        fits = any(_misfit(value, one, name) is None for one in arguments)
        return None if fits else f"{name} is {in_short(value, most=60)}"
    if isinstance(kind, Mapping) and isinstance(value, dict):
        inner = cast(Fields, kind)
        return next(filter(None, (_misfit(value.get(key), inner[key], f"{name}.{key}") for key in inner)), None)
    if origin in (list, dict) and isinstance(value, origin):
        items = enumerate(value) if origin is list else cast(dict[str, Any], value).items()
        return next(filter(None, (_misfit(item, arguments[-1], f"{name}.{key}") for key, item in items)), None)
    scalars: tuple[type, ...] = (int, float) if kind is float else (kind,) if isinstance(kind, type) else ()
    fits = isinstance(value, scalars) and not (isinstance(value, bool) and kind is not bool)
    return None if fits else f"{name} is {in_short(value, most=60)}"


def _finite(number: str) -> float:
    return float(number) if math.isfinite(float(number)) else _not_finite(number)


def _not_finite(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}, which is no number of JSON")


def differences(stored: Any, wanted: Any, where: str = "") -> list[str]:  # plain values of any kind
    """Differences of two plain values, a line each: "sampler.eta: absent there, 0.5 now"."""
    if isinstance(stored, Mapping) and isinstance(wanted, Mapping):
        old, new = cast(Mapping[str, Any], stored), cast(Mapping[str, Any], wanted)
        return [
            line
            for key in sorted(old.keys() | new.keys())
            for line in differences(old.get(key, _ABSENT), new.get(key, _ABSENT), f"{where}.{key}" if where else key)
        ]
    # True == 1, but a seed of true is not a seed of 1.
    same = type(cast(object, stored)) is type(cast(object, wanted)) and stored == wanted
    return [] if same else [f"{where}: {in_short(stored)} there, {in_short(wanted)} now"]


def identified(value: Any) -> Any:  # plain values of any kind
    """A plain value without fields that do not identify it: null ones, and name and lineage beside a "sha256"."""
    if isinstance(value, list):
        return [identified(item) for item in cast(list[Any], value)]
    if not isinstance(value, dict):
        return value
    fields = cast(dict[str, Any], value)
    return {
        key: identified(inner)
        for key, inner in fields.items()
        if inner is not None and not (key in ("name", "lineage") and "sha256" in fields)
    }


_ABSENT = object()


def in_short(value: Any, *, most: int = 80) -> str:
    """A plain value as JSON of at most so many characters, for messages."""
    text = "absent" if value is _ABSENT else json.dumps(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
