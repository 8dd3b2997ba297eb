"""The table of a diagnosis, and the lines and markers of its figure."""

import math
from dataclasses import replace

import pytest

from classifiers.diagnosis import Diagnosis, LevelReport, PairReport
from classifiers.diagnosis_report import diagnosis_figure, format_diagnosis
from classifiers.martingale import Bin

KNOWN = LevelReport(
    t=0.0, alpha_bar=0.98765, accuracy=0.875, log_likelihood=-0.4321, confidence=0.75, calibration_error=0.125,
    entropy=0.25, correction=0.0625, slope_error=3e-6,
)  # fmt: skip
UNKNOWN = replace(KNOWN, t=49.0, accuracy=0.25, confidence=0.5, log_likelihood=-1.5, correction=0.5)
DIAGNOSIS = Diagnosis(
    classifier="run/checkpoint-0000007", data="heldout", num_images=200, trained_on_it=False, guides=True, chance=0.25,
    commonest=0.25, levels=(KNOWN, UNKNOWN), scale=1.0,
)  # fmt: skip
PAIR = PairReport(
    t=49.0, s=0.0, spent=0.75, gained=0.5, moved=0.0625, z=4.0,
    bins=(Bin(count=9, p_t=0.25, p_s=0.25, standard_error=0.1), Bin(count=9, p_t=0.75, p_s=0.35, standard_error=0.1)),
)  # fmt: skip
PAIRED = replace(DIAGNOSIS, levels=(replace(KNOWN, nats=0.25), replace(UNKNOWN, nats=0.5)), pairs=(PAIR,))


def test_the_table_has_a_row_a_level_under_aligned_headings():
    lines = format_diagnosis(DIAGNOSIS).splitlines()
    assert lines[0] == "200 images of heldout; chance: 25.0%, -1.386 nats"
    head, first, second = lines[2:5]
    assert first.split() == ["0", "0.98765", "87.5%", "-0.432", "0.125", "0.250", "0.0625", "3e-06"]
    assert second.split()[0] == "49"
    assert len(head) == len(first) == len(second)
    assert head.endswith("slope error")


def test_the_figure_shows_each_quantity_at_its_timestep_and_chance_as_a_line():
    axes = diagnosis_figure(DIAGNOSIS).axes
    curves = [[float(y) for y in axis.lines[0].get_ydata()] for axis in axes]
    assert curves == [[0.875, 0.25], [-0.4321, -1.5], [0.125, 0.125], [0.0625, 0.5]]
    assert all([float(t) for t in axis.lines[0].get_xdata()] == [0, 49] for axis in axes)
    dotted = [float(line.get_ydata()[0]) for axis in axes for line in axis.lines if line.get_linestyle() == ":"]
    assert dotted == pytest.approx([0.25, math.log(0.25)])
    assert all(axis.get_title() and axis.get_ylabel() for axis in axes)


def test_levels_no_better_than_chance_are_hollow():
    hollow = [line for axis in diagnosis_figure(DIAGNOSIS).axes for line in axis.lines
              if line.get_markerfacecolor() == "white"]  # fmt: skip
    assert [line.get_xdata() for line in hollow] == [[49.0]] * 4
    all_known = replace(DIAGNOSIS, levels=(KNOWN, replace(KNOWN, t=49.0)))
    assert not any(
        line.get_markerfacecolor() == "white" for axis in diagnosis_figure(all_known).axes for line in axis.lines
    )


def test_pairs_of_levels_have_a_table_of_their_own():
    lines = format_diagnosis(PAIRED).splitlines()
    assert lines[3].split() == ["0", "0.98765", "87.5%", "-0.432", "0.125", "0.250", "0.0625", "0.250", "3e-06"]
    head = next(i for i, line in enumerate(lines) if "gained" in line.split())
    assert lines[head + 1].split() == ["49", "0", "0.750", "0.500", "0.0625", "4.0", "0.750", "0.350"]
    assert max(map(len, lines)) <= 100
    assert "gained" not in format_diagnosis(DIAGNOSIS)


def test_pairs_of_levels_are_drawn_as_bands_of_nats_and_curves_of_the_martingale_test():
    bands, curves = diagnosis_figure(PAIRED).axes[2::3]
    assert [[list(map(float, part)) for part in stairs.get_data()[:2]] for stairs in bands.patches] == [
        [[0.75], [0, 49]], [[0.5], [0, 49]],
    ]  # fmt: skip
    assert [float(p) for p in curves.lines[0].get_ydata()] == [0.25, 0.35]
