"""Report of a sweep: a table, curves against the scale and against the cost, and report.html with all of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from ..evaluation.metrics import HEADLINES, RANKING
from ..files import atomic_write
from ..html import Markup, gallery, image, png, section, table, write_page

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
        return self.metrics[RANKING.key]


def best_of(outcomes: Sequence[Outcome]) -> Outcome:
    """The setting of the smallest rank; of several the first."""
    return min(outcomes, key=lambda outcome: outcome.rank)


def grid_edges(outcomes: Sequence[Outcome]) -> list[str]:
    """Sentences about the best setting where it lies at an edge of the grid; none for scale 0, which has no lower."""
    best, found = best_of(outcomes), list[str]()
    scales = [outcome.scale for outcome in outcomes if outcome.line == best.line]
    if len(scales) > 1 and best.scale in (max(scales), min(scales)) and best.scale:
        side = "largest" if best.scale == max(scales) else "smallest"
        found.append(f"s = {best.scale:g} is the {side} scale of the sweep: the optimum may lie beyond; widen --scales")
    others = [o.network_evaluations for o in outcomes if (o.sampler, o.scale) == (best.sampler, best.scale)]
    if len(others) > 1 and best.network_evaluations == max(others):
        found.append(f"{best.steps} steps are the most of the sweep: more may be better; add to --steps")
    return found


def format_outcomes(outcomes: Sequence[Outcome]) -> str:
    """A line for each setting, the best marked by a star."""
    cells = _cells(outcomes)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    best = best_of(outcomes)
    marks = [" ", *("*" if outcome is best else " " for outcome in outcomes)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(f"{mark} {line}" for mark, line in zip(marks, lines, strict=True))


def write_sweep_report(out: Path, outcomes: Sequence[Outcome]) -> Path:
    """Write scales.png, cost.png and report.html into `out`; the path of the last."""
    best, title = best_of(outcomes), "Guidance, samplers and steps"
    curves, cost = png(scale_curves(outcomes)), png(cost_curve(outcomes))
    for name, content in (("scales.png", curves), ("cost.png", cost)):
        with atomic_write(out / name) as file:
            file.write(content)
    head, *rows = _cells(outcomes)
    beside = [(outcome.name, outcome.grid.read_bytes()) for outcome in outcomes if outcome.line == best.line]
    sections = [
        Markup(
            "<h1>{}</h1><p>The best {} of {} settings: <strong>{}</strong>, {:.4g}. All settings have the same "
            "seeds.</p>"
        ).format(title, best.display_names[RANKING.key], len(outcomes), best.name, best.rank),
        *(Markup("<p>{}.</p>").format(sentence) for sentence in grid_edges(outcomes)),
        section("Guidance scale against quality", image(curves)),
        section("Cost against quality", image(cost)),
        section("Numbers", table(head, rows, marked=list(outcomes).index(best))),
        section(f"Samples: {best.line}", gallery(beside)),
    ]
    write_page(out / "report.html", title, sections)
    return out / "report.html"


def scale_curves(outcomes: Sequence[Outcome], *, real: Mapping[str, float] | None = None) -> Figure:
    """Each headline number against the scale, a line for each sampler and number of steps; real: those of held-out
    real images, for a dotted line."""
    shown = [number.key for number in HEADLINES if all(number.key in outcome.metrics for outcome in outcomes)]
    scales = sorted({outcome.scale for outcome in outcomes})
    rows = -(-len(shown) // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 3.4 * rows), layout="constrained")
    axes = [figure.add_subplot(rows, COLUMNS, place + 1) for place in range(len(shown))]
    for axis, key in zip(axes, shown, strict=True):
        for line in dict.fromkeys(outcome.line for outcome in outcomes):
            found = sorted((scales.index(o.scale), o.metrics[key]) for o in outcomes if o.line == line)
            axis.plot(*zip(*found, strict=True), marker="o", label=line)
        if real is not None and key in real:
            axis.axhline(real[key], color="grey", linestyle=":", label="held-out real")
        axis.set(title=outcomes[0].display_names[key], xlabel="guidance scale s")
        axis.set_xticks(range(len(scales)), [f"{scale:g}" for scale in scales])
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def cost_curve(outcomes: Sequence[Outcome]) -> Figure:
    """The ranking number at each sampler's best scale against evaluations of denoising networks; the scale is
    written beside each point."""
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
    ylabel = outcomes[0].display_names[RANKING.key]
    axis.set(xlabel="evaluations of denoising networks for each sample", ylabel=ylabel)
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def metric_cells(metrics: Mapping[str, float], keys: Sequence[str]) -> list[str]:
    """A table's cells of those metrics, empty for one that is missing."""
    return [f"{metrics[key]:.3f}" if key in metrics else "" for key in keys]


def _cells(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Rows of a table of the headline numbers that any setting has, the head first."""
    shown = [number.key for number in HEADLINES if any(number.key in outcome.metrics for outcome in outcomes)]
    head = ["sampler", "steps", "s", "evaluations", *(outcomes[0].display_names[key] for key in shown)]
    settings = [[o.sampler, str(o.steps), f"{o.scale:g}", str(o.network_evaluations)] for o in outcomes]
    return [head, *(own + metric_cells(o.metrics, shown) for own, o in zip(settings, outcomes, strict=True))]
