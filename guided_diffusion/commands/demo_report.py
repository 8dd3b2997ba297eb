"""report.html: what the demonstration made, in pictures, curves, a table and the commands that made each thing."""

import html
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..html import gallery, image, png, section, table, write_page

COLUMNS = {
    "frechet_distance": "FD",
    "spatial_frechet_distance": "sFD",
    "inception_score": "IS-like",
    "precision": "precision",
    "recall": "recall",
    "accuracy": "accuracy",
}
"""Metrics shown and their names; the features are the judge's, so nothing here is an FID."""

CURVES = ("frechet_distance", "precision", "recall", "accuracy")


@dataclass(frozen=True)
class Setting:
    """One sampler at one scale, evaluated."""

    sampler: str
    scale: float
    metrics: Mapping[str, float]
    grid: Path
    """PNG; each row the samples asked to be of one class."""


@dataclass(frozen=True)
class DemoReport:
    """What was written."""

    path: Path
    table: str


def write_demo_report(out: Path, settings: Sequence[Setting], *, commands: Sequence[Sequence[str]]) -> DemoReport:
    """Write out/report.html, one self-contained file, from the records that the commands left in `out`."""
    floor = json.loads((out / "floor.json").read_text())["metrics"]
    levels = json.loads((out / "classifier_levels.json").read_text())
    judged = _last_metrics(out / "judge" / "metrics.jsonl")
    sections = [
        _heading(floor, judged),
        section("Guidance scale against quality", image(png(_curves(settings, floor)))),
        section("Numbers", table(("sampler", "s", *COLUMNS.values()), _rows(settings, floor))),
        section("Samples", _grids(settings)),
        section("Is the classifier any good?", _levels_text(levels) + image(png(_level_curve(levels)))),
        section("Commands", "<pre>" + html.escape("\n".join(f"python {shlex.join(c)}" for c in commands)) + "</pre>"),
    ]
    path = out / "report.html"
    write_page(path, "Classifier guidance on handwritten digits", sections)
    return DemoReport(path, _text_table(settings, floor))


def _last_metrics(file: Path) -> Mapping[str, float]:
    merged: dict[str, float] = {}
    for line in file.read_text().splitlines():
        merged |= json.loads(line)
    return merged


def _heading(floor: Mapping[str, float], judged: Mapping[str, float]) -> str:
    return (
        "<h1>Classifier guidance on handwritten digits</h1><p>An <em>unconditional</em> diffusion model, guided to the "
        "asked class by a separate classifier of noisy images. A third network, trained on clean images only, judges "
        f"the result; it classifies {judged['heldout_accuracy_t0']:.1%} of held-out real digits rightly, and FD, "
        "precision and recall are computed on its features. FD of the held-out real digits, the floor: "
        f"{floor['frechet_distance']:.3f}.</p>"
    )


def _rows(settings: Sequence[Setting], floor: Mapping[str, float]) -> list[list[str]]:
    rows = [
        [setting.sampler, f"{setting.scale:g}", *(_number(setting.metrics.get(name)) for name in COLUMNS)]
        for setting in settings
    ]
    return [*rows, ["held-out real", "", *(_number(floor.get(name)) for name in COLUMNS)]]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _text_table(settings: Sequence[Setting], floor: Mapping[str, float]) -> str:
    rows = [["sampler", "s", *COLUMNS.values()], *_rows(settings, floor)]
    return "\n".join(f"{row[0]:<14}{row[1]:>4}" + "".join(f"{cell:>11}" for cell in row[2:]) for row in rows)


def _curves(settings: Sequence[Setting], floor: Mapping[str, float]) -> Figure:
    scales = sorted({setting.scale for setting in settings})
    figure = Figure(figsize=(4 * len(CURVES), 3.4), layout="constrained")
    axes = figure.subplots(1, len(CURVES))
    for axis, name in zip(axes, CURVES, strict=True):
        for sampler in dict.fromkeys(setting.sampler for setting in settings):
            points = [(scales.index(s.scale), s.metrics[name]) for s in settings if s.sampler == sampler]
            axis.plot(*zip(*points, strict=True), marker="o", label=sampler)
        if name in floor:
            axis.axhline(floor[name], color="grey", linestyle=":", label="held-out real")
        axis.set(title=COLUMNS[name], xlabel="guidance scale s")
        axis.set_xticks(range(len(scales)), [f"{scale:g}" for scale in scales])
        axis.grid(alpha=0.3)
    axes[0].legend()
    return figure


def _level_curve(levels: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axis = figure.subplots()
    points = [(level["t"], level["accuracy"]) for level in levels["levels"]]
    axis.plot(*zip(*points, strict=True), marker="o", label="held-out accuracy")
    axis.axhline(levels["chance"], color="grey", linestyle=":", label="chance")
    axis.set(xlabel="timestep t (noise grows to the right)", ylabel="accuracy", ylim=(0, 1.02))
    axis.legend()
    return figure


def _levels_text(levels: Mapping[str, Any]) -> str:
    return (
        f"<p>Accuracy of the noisy classifier on {levels['num_images']} held-out digits at each noise level. Near the "
        "right end nothing of the digit is left, and chance is all that any classifier can reach.</p>"
    )


def _grids(settings: Sequence[Setting]) -> str:
    text = "<p>Each row was asked to be one digit, 0 at the top; the same seeds at every scale.</p>"
    for sampler in dict.fromkeys(setting.sampler for setting in settings):
        own = [setting for setting in settings if setting.sampler == sampler]
        text += gallery([(f"{sampler}, s = {setting.scale:g}", setting.grid.read_bytes()) for setting in own])
    return text
