"""Every bad input of `bad_inputs`, given to the real scripts, and the documented table of them."""

import os
from pathlib import Path

import pytest
import tiny
from bad_inputs import CASES, UNPRIVILEGED_CASES, BadInput, attempt, write_material

TABLE = tiny.REPOSITORY / "docs" / "errors.md"

may_do_everything = pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")


@pytest.fixture(scope="session")
def material(shared: Path) -> Path:
    """Files that `attempt` copies for each case."""
    return tiny.made_once(shared / "material", write_material)


@pytest.mark.parametrize(
    "case",
    [*CASES, *(pytest.param(case, marks=may_do_everything) for case in UNPRIVILEGED_CASES)],
    ids=lambda case: case.name,
)
def test_a_bad_input_gets_its_message_and_leaves_everything_as_it_was(case: BadInput, material, tmp_path):
    outcome = attempt(case, material, tmp_path / "here")
    assert outcome.status == case.status
    assert_says(outcome.message, case)
    if case.status:
        assert len(outcome.message.splitlines()) == 1
    if not case.writes:
        assert outcome.changed == ()


def test_the_documented_table_has_every_case_and_its_message():
    rows = [line for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    rows = [line for line in rows if not line.startswith(("| input", "| ---"))]
    assert len(rows) == len(CASES), "python tests/bad_inputs.py > docs/errors.md"
    for row, case in zip(rows, CASES, strict=True):
        name, message = row.removeprefix("| ").split(" | ", 1)
        assert name.startswith(f"{case.name}: `{case.script}.py")
        assert_says(message, case)


def test_names_of_cases_differ():
    assert len({case.name for case in CASES}) == len(CASES)


def assert_says(message: str, case: BadInput) -> None:
    """All parts are in the message, one after the other."""
    rest = message
    for part in case.says:
        _, found, rest = rest.partition(part)
        assert found, f"{part!r} is not in {message!r}"
