"""Records of the project's own: what fits, and the file and field that a damaged one is refused by."""

import json
import os
from typing import Any, Literal

import pytest

from guided_diffusion.records import DamagedRecordError, parse_record, read_record

FIELDS = {
    "count": int, "value": float, "names": list[str], "sha256": dict[str, str], "note": str | None,
    "kind": Literal["a", "b"], "inner": {"size": int}, "anything": Any,
}  # fmt: skip
GOOD: dict[str, Any] = {
    "count": 3, "value": 1, "names": ["1", "null"], "sha256": {"x": "y"}, "kind": "a", "inner": {"size": 1},
    "anything": [], "more": True,
}  # fmt: skip


def test_a_record_is_read_as_it_was_written_and_what_may_be_absent_is_none(tmp_path):
    (tmp_path / "record.json").write_text(json.dumps(GOOD))
    assert read_record(tmp_path / "record.json", FIELDS) == {**GOOD, "note": None}


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("count", 3.0, "count is 3.0"), ("count", True, "count is true"), ("count", "3", 'count is "3"'),
        ("value", True, "value is true"), ("names", "abc", 'names is "abc"'), ("names", ["a", 1], "names.1 is 1"),
        ("sha256", [], "sha256 is []"), ("sha256", {"x": 1}, "sha256.x is 1"), ("note", 1, "note is 1"),
        ("kind", "c", 'kind is "c"'), ("inner", {"size": None}, "inner.size is null"), ("inner", 1, "inner is 1"),
    ],
)  # fmt: skip
def test_a_field_of_another_type_is_named(field, value, shown):
    with pytest.raises(DamagedRecordError, match="^x.json is damaged: ") as refusal:
        parse_record(json.dumps({**GOOD, field: value}), FIELDS, source="x.json")
    assert shown in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"), ("[]", "holds [] where an object"), ('{"value": NaN}', "NaN"), ("\xff", "utf-8"),
        ('{"value": 1e999}', "it holds 1e999, which is no number"),
        ("[" * 100_000, "nested too deep"), (json.dumps({"count": 3}), "value is null; it has no value"),
    ],
)  # fmt: skip
def test_what_is_no_such_record_is_refused_with_its_place(text, reason):
    with pytest.raises(DamagedRecordError, match="^x.json is damaged: ") as refusal:
        parse_record(text.encode("latin-1"), FIELDS, source="x.json")
    assert reason in str(refusal.value)


def test_a_file_that_cannot_be_a_record_is_refused_without_reading_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 1 << 40)
    (tmp_path / "directory").mkdir()
    for name, reason in {
        "pipe": "no regular file",
        "directory": "no regular file",
        "large": "1,099,511,627,776 by",
    }.items():
        with pytest.raises(DamagedRecordError, match=f"{name} is damaged: it .*{reason}"):
            read_record(tmp_path / name, FIELDS)
