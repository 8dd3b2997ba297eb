"""Benchmarks: ways take turns, numbers have their spread, and what could not be had says so."""

from itertools import count

import pytest
from results import SUBJECTS, document, kept_sections
from rounds import Missing, Spread, Timings, growth, reasons, shown, timed


def test_ways_take_turns_and_none_always_follows_the_same_one():
    calls: list[str] = []
    ways = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    timings = timed(ways, rounds=3)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"  # the first time each warms up
    assert [len(seconds) for seconds in timings.seconds.values()] == [3, 3, 3]


def test_a_way_that_fails_is_missing_with_its_reason_and_stops_no_other():
    def fail() -> None:
        raise RuntimeError("no such kernel\nstack")

    timings = timed({"bad": fail, "absent": Missing("not installed"), "good": lambda: None}, rounds=2)
    assert timings.missing == {"bad": "RuntimeError: no such kernel", "absent": "not installed"}
    assert list(timings.seconds) == ["good"]
    assert shown(timings.spread("bad")) == "not measured"
    assert reasons(timings).startswith("absent: not measured (not installed); bad: not measured")


def test_ratios_are_taken_within_a_round_so_that_a_slow_machine_leaves_them_alone():
    timings = Timings({"ours": [1.0, 10.0, 2.0], "theirs": [2.0, 20.0, 4.0]}, {})
    assert timings.ratio("theirs", "ours") == Spread(2.0, 2.0, 2.0)
    assert timings.rate("ours", 4.0) == Spread(2.0, pytest.approx(4 / 6), pytest.approx(4 / 1.5))


def test_costs_that_grow_with_the_square_have_the_exponent_2():
    costs = {size: Spread(3.0 * size**2, 0.0, 0.0) for size in (1, 5, 10)}
    assert growth(costs | {100: None}) == "2.00"
    assert growth({1: None, 2: Spread(1.0, 1.0, 1.0)}) == "not measured"


def test_sections_that_are_not_measured_again_stay_as_they_are(tmp_path):
    file, numbers = tmp_path / "RESULTS.md", count()
    sections = {subject: f"## {subject}\n\n### Table\n\n| {next(numbers)} |\n" for subject in SUBJECTS}
    file.write_text(document("- Processor: a", sections, gpu=False))
    assert kept_sections(file, "- Processor: a") == sections
    with pytest.raises(ValueError, match="of another machine"):
        kept_sections(file, "- Processor: b")
