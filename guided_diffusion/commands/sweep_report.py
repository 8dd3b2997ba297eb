"""Report of a sweep: a table, curves against the scale and against the cost, and report.html with all of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import atomic_write
from ..html import gallery, image, png, section, table, write_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
"""Curves side by side."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One setting, evaluated."""

    sampler: str
    steps: int | str
    scale: float
    network_evaluations: int
    """Evaluations of denoising networks for each sample, those of classifier-free guidance and autoguidance included,
    those of classifiers not."""
    metrics: Mapping[str, float]
    display_names: Mapping[str, str]
    """Printed names of the metrics, with the number of samples."""
    grid: Path
    """PNG of the first samples."""

    @property
    def line(self) -> str:
        """Sampler and steps: a curve against the scale."""
        return f"{self.sampler}, {self.steps} steps"

    @property
    def name(self) -> str:
        """Sampler, steps and scale."""
        return f"{self.line}, s = {self.scale:g}"

    @property
    def rank(self) -> float:
        """The number that settings are compared by; the smaller, the better."""
        from ..evaluation.metrics import RANKING  # with torchmetrics, which is slow to import

        return self.metrics[RANKING.key]

    @property
    def rank_name(self) -> str:
        """Printed name of that number."""
        from ..evaluation.metrics import RANKING

        return self.display_names[RANKING.key]


def best_of(outcomes: Sequence[Outcome]) -> Outcome:
    """The setting of the smallest rank; of several the first."""
    return min(outcomes, key=lambda outcome: outcome.rank)


def format_outcomes(outcomes: Sequence[Outcome]) -> str:
    """A line for each setting, the best marked by a star."""
    head, rows = _cells(outcomes)
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    best = best_of(outcomes)
    marks = [" ", *("*" if outcome is best else " " for outcome in outcomes)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    return "\n".join(f"{mark} {line}" for mark, line in zip(marks, lines, strict=True))


def write_sweep_report(out: Path, outcomes: Sequence[Outcome]) -> Path:
    """Write scales.png, cost.png and report.html into `out`; the path of the last."""
    best = best_of(outcomes)
    curves, cost = png(scale_curves(outcomes)), png(cost_curve(outcomes))
    for name, content in (("scales.png", curves), ("cost.png", cost)):
        with atomic_write(out / name) as file:
            file.write(content)
    head, rows = _cells(outcomes)
    beside = [(outcome.name, outcome.grid.read_bytes()) for outcome in outcomes if outcome.line == best.line]
    sections = [
        f"<h1>Guidance, samplers and steps</h1><p>The best {best.rank_name} of {len(outcomes)} settings: "
        f"<strong>{best.name}</strong>, {best.rank:.4g}. All settings have the same seeds.</p>",
        section("Guidance scale against quality", image(curves)),
        section("Cost against quality", image(cost)),
        section("Numbers", table(head, rows, marked=list(outcomes).index(best))),
        section(f"Samples: {best.line}", gallery(beside)),
    ]
    write_page(out / "report.html", "Guidance, samplers and steps", sections)
    return out / "report.html"


def scale_curves(outcomes: Sequence[Outcome]) -> "Figure":
    """Each metric against the scale, a line for each sampler and number of steps."""
    from matplotlib.figure import Figure

    shown = [key for key in _headlines(outcomes) if all(key in outcome.metrics for outcome in outcomes)]
    scales = sorted({outcome.scale for outcome in outcomes})
    rows = -(-len(shown) // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 3.4 * rows), layout="constrained")
    axes: list[Axes] = [figure.add_subplot(rows, COLUMNS, place + 1) for place in range(len(shown))]
    for axis, metric in zip(axes, shown, strict=True):
        for line in dict.fromkeys(outcome.line for outcome in outcomes):
            found = sorted((scales.index(o.scale), o.metrics[metric]) for o in outcomes if o.line == line)
            axis.plot(*zip(*found, strict=True), marker="o", label=line)
        axis.set(title=outcomes[0].display_names[metric], xlabel="guidance scale s")
        axis.set_xticks(range(len(scales)), [f"{scale:g}" for scale in scales])
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def cost_curve(outcomes: Sequence[Outcome]) -> "Figure":
    """The ranking number at each sampler's best scale against evaluations of denoising networks; the scale is
    written beside each point."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for sampler in dict.fromkeys(outcome.sampler for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.sampler == sampler]
        costs = sorted({outcome.network_evaluations for outcome in own})
        best = [best_of([outcome for outcome in own if outcome.network_evaluations == cost]) for cost in costs]
        axis.plot(costs, [outcome.rank for outcome in best], marker="o", label=sampler)
        for outcome in best:
            place = (outcome.network_evaluations, outcome.rank)
            axis.annotate(f"s = {outcome.scale:g}", place, textcoords="offset points", xytext=(5, 5), fontsize=8)
    axis.margins(0.1)  # for what is written beside the points
    axis.set(xlabel="evaluations of denoising networks for each sample", ylabel=outcomes[0].rank_name)
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def _headlines(outcomes: Sequence[Outcome]) -> list[str]:
    """Keys of the headline numbers that any setting has."""
    from ..evaluation.metrics import HEADLINES

    return [number.key for number in HEADLINES if any(number.key in outcome.metrics for outcome in outcomes)]


def _cells(outcomes: Sequence[Outcome]) -> tuple[list[str], list[list[str]]]:
    shown = _headlines(outcomes)
    head = ["sampler", "steps", "s", "evaluations", *(outcomes[0].display_names[metric] for metric in shown)]
    rows = [
        [o.sampler, str(o.steps), f"{o.scale:g}", str(o.network_evaluations), *(_number(o, metric) for metric in shown)]
        for o in outcomes
    ]
    return head, rows


def _number(outcome: Outcome, metric: str) -> str:
    return f"{outcome.metrics[metric]:.3f}" if metric in outcome.metrics else ""
