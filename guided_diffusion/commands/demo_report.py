"""The demonstration's report.html: pictures, curves, a table, and the commands that made them."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..evaluation.metrics import HEADLINES, RANKING
from ..html import gallery, image, png, section, table, write_page

COLUMNS = {number.key: number.name for number in HEADLINES}
"""Numbers in the table and their headings; they use the judge's features, so none of them is an FID."""


@dataclass(frozen=True)
class Setting:
    """One sampler at one scale, evaluated."""

    sampler: str
    scale: float
    metrics: Mapping[str, float]
    grid: Path
    """PNG of samples, a row for each class asked for."""


@dataclass(frozen=True)
class DemoReport:
    """The written page, and its table as text."""

    path: Path
    table: str


def write_demo_report(out: Path, settings: Sequence[Setting], *, commands: Sequence[str]) -> DemoReport:
    """Write out/report.html from the records that the commands left in `out`."""
    floor = json.loads((out / "floor.json").read_text())["metrics"]
    levels = json.loads((out / "classifier_levels.json").read_text())
    judge: dict[str, float] = {}
    for line in (out / "judge" / "metrics.jsonl").read_text().splitlines():
        judge |= json.loads(line)
    head = ("sampler", "s", *COLUMNS.values())
    rows = [_row(setting.sampler, f"{setting.scale:g}", setting.metrics) for setting in settings]
    rows.append(_row("held-out real", "", floor))
    sections = [
        _introduction(floor, judge),
        section("Guidance scale against quality", image(png(_curves(settings, floor)))),
        section("Numbers", table(head, rows)),
        section("Samples", _grids(settings)),
        section("Accuracy of the classifier", _levels_text(levels) + image(png(_level_curve(levels)))),
        section("Commands", f"<pre>{html.escape(chr(10).join(f'python {command}' for command in commands))}</pre>"),
    ]
    write_page(out / "report.html", "Classifier guidance on handwritten digits", sections)
    text = (f"{row[0]:<14}{row[1]:>4}" + "".join(f"{cell:>11}" for cell in row[2:]) for row in (head, *rows))
    return DemoReport(out / "report.html", "\n".join(text))


def _row(name: str, scale: str, metrics: Mapping[str, float]) -> list[str]:
    return [name, scale, *(f"{metrics[column]:.3f}" if column in metrics else "" for column in COLUMNS)]


def _introduction(floor: Mapping[str, float], judge: Mapping[str, float]) -> str:
    return (
        "<h1>Classifier guidance on handwritten digits</h1><p>An <em>unconditional</em> diffusion model is guided to "
        "the class asked for by a separate classifier of noisy images. A third network, the judge, is trained on clean "
        f"images only. It classifies {judge['heldout_accuracy_t0']:.1%} of held-out real digits correctly, and FD, "
        "precision and recall are computed on its features. FD of the held-out real digits, the floor: "
        f"{floor[RANKING.key]:.3f}.</p>"
    )


def _curves(settings: Sequence[Setting], floor: Mapping[str, float]) -> Figure:
    scales = sorted({setting.scale for setting in settings})
    shown = [name for name in COLUMNS if all(name in setting.metrics for setting in settings)]
    figure = Figure(figsize=(12, 6.8), layout="constrained")
    axes = [figure.add_subplot(2, -(-len(shown) // 2), place) for place in range(1, len(shown) + 1)]
    for axis, name in zip(axes, shown, strict=True):
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
        f"<p>Accuracy of the noisy classifier on {levels['num_images']} held-out digits at each noise level. At the "
        "right end no trace of the digit is left, and no classifier can do better than chance.</p>"
    )


def _grids(settings: Sequence[Setting]) -> str:
    text = "<p>Each row is one class, 0 at the top; the seeds are the same at every scale.</p>"
    for sampler in dict.fromkeys(setting.sampler for setting in settings):
        own = [setting for setting in settings if setting.sampler == sampler]
        text += gallery([(f"{sampler}, s = {setting.scale:g}", setting.grid.read_bytes()) for setting in own])
    return text
