"""Report of a sweep: a table, curves against an axis and against the cost, and report.html with all of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, product
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..evaluation.metrics import HEADLINES, RANKING
from ..evaluation.report_text import columns
from ..files import atomic_write
from ..html import Markup, gallery, image, png, section, table, write_page
from .path_curves import path_curves
from .sweep_settings import OWN_OPTIONS, SAMPLER, SCALE, STEPS, short_name, shown

COLUMNS = 3
"""Curves side by side."""
MOST_LINES, LONGEST_TEXT = 12, 25
"""Lines of a figure; of more combinations it shows the best. Characters of a value in a figure."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One setting, evaluated."""

    sampler: str
    steps: int | str
    scale: float | None
    """Guidance scale; None without a classifier."""
    axes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Values of the sweep's further axes, by option."""
    network_evaluations: int
    """Evaluations of denoising networks for each sample, those of classifier-free guidance and autoguidance included,
    those of classifiers not."""
    measured: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Of guidance while the samples were made, as their manifest has it: nats, by timestep too, and particles."""
    metrics: Mapping[str, float]
    display_names: Mapping[str, str]
    """Printed names of the metrics, with the number of samples."""
    grid: Path
    """PNG of the first samples."""

    @property
    def setting(self) -> dict[str, Any]:
        """The value of every axis, by option."""
        return {SAMPLER: self.sampler, STEPS: self.steps, **self.axes, SCALE: self.scale}

    @property
    def name(self) -> str:
        """Every axis and its value in words."""
        return in_words(self.setting)

    @property
    def rank(self) -> float:
        """The number that settings are compared by; the smaller, the better."""
        return self.metrics[RANKING.key]


def in_words(setting: Mapping[str, Any], *, longest: int | None = None) -> str:
    """Values of axes, as "ddim, 25 steps, sigma_max 5, s = 4"; longest: characters of a value, of its end if longer."""
    forms, texts = {SAMPLER: "{}", STEPS: "{} steps", SCALE: "s = {}"}, list[str]()
    for name, value in setting.items():
        text = shown(value)
        if name != SCALE or value is not None:
            cut = text if longest is None or len(text) <= longest else f"..{text[-longest:]}"
            texts.append(forms.get(name, f"{short_name(name)} {{}}").format(cut))
    return ", ".join(texts)


def values_of(outcomes: Sequence[Outcome], option: str) -> list[Any]:
    """The different values of an axis: None, then numbers from the smallest on, then others in their order."""
    found: list[Any] = []
    for value in (outcome.setting[option] for outcome in outcomes):
        found += [] if value in found else [value]
    numbers = sorted(value for value in found if _is_number(value))
    return [None] * (None in found) + numbers + [value for value in found if value is not None and value not in numbers]


def curve_axis(outcomes: Sequence[Outcome]) -> str:
    """The axis that curves are drawn against: the scale if there are several, else the one of most numbers, else of
    most values."""
    counts = {option: values_of(outcomes, option) for option in outcomes[0].setting}
    if len(counts[SCALE]) > 1:
        return SCALE
    return max(counts, key=lambda option: (sum(map(_is_number, counts[option])) > 1, len(counts[option])))


def others_of(outcome: Outcome, *options: str) -> dict[str, Any]:
    """A setting without some axes."""
    return {option: value for option, value in outcome.setting.items() if option not in options}


def best_of(outcomes: Sequence[Outcome]) -> Outcome:
    """The setting of the smallest rank; of several the first."""
    return min(outcomes, key=lambda outcome: outcome.rank)


def grid_edges(outcomes: Sequence[Outcome]) -> list[str]:
    """Sentences about the best setting where it lies at an edge of the grid; none for a value that no other is beyond:
    0, infinity, a count of 1."""
    best, found = best_of(outcomes), list[str]()
    for option in (SCALE, *best.axes):
        own = [outcome for outcome in outcomes if others_of(outcome, option) == others_of(best, option)]
        numbers, value = [number for number in values_of(own, option) if _is_number(number)], best.setting[option]
        at_edge = len(numbers) > 1 and value in (numbers[0], numbers[-1])
        if at_edge and value not in (0, float("inf")) and not (isinstance(value, int) and value == 1):
            side, kind = "largest" if value == numbers[-1] else "smallest", "scale" if option == SCALE else "value"
            where = f"--{OWN_OPTIONS[option]}" if option == SCALE else "its values in --axes"
            found.append(f"{in_words({option: value})} is the {side} {kind} of the sweep: the optimum may lie beyond; "
                         f"widen {where}")  # fmt: skip
    others = [o.network_evaluations for o in outcomes if others_of(o, STEPS) == others_of(best, STEPS)]
    if len(others) > 1 and best.network_evaluations == max(others):
        found.append(f"{best.steps} steps are the most of the sweep: more may be better; add to --steps")
    return found


def format_outcomes(outcomes: Sequence[Outcome]) -> str:
    """A line for each setting, the best marked by a star."""
    best = best_of(outcomes)
    marks = ["  ", *("* " if outcome is best else "  " for outcome in outcomes)]
    rows = [[mark + first, *rest] for mark, (first, *rest) in zip(marks, _cells(outcomes), strict=True)]
    return "\n".join(columns(rows, right=True))


def write_sweep_report(out: Path, outcomes: Sequence[Outcome]) -> Path:
    """Write curves.png, cost.png and report.html into `out`; the path of the last."""
    best, title, against = best_of(outcomes), "Guidance, samplers and steps", curve_axis(outcomes)
    curves, cost = png(quality_curves(outcomes)), png(cost_curve(outcomes))
    for name, content in (("curves.png", curves), ("cost.png", cost)):
        with atomic_write(out / name) as file:
            file.write(content)
    head, *rows = _cells(outcomes)
    further = [option for option in best.axes if option in _swept(outcomes) and option != against]
    sections = [
        Markup(
            "<h1>{}</h1><p>The best {} of {} settings: <strong>{}</strong>, {:.4g}. All settings have the same "
            "seeds.</p>"
        ).format(title, best.display_names[RANKING.key], len(outcomes), best.name, best.rank),
        *(Markup("<p>{}.</p>").format(sentence) for sentence in grid_edges(outcomes)),
        section(f"{_axis_label(against).capitalize()} against quality", image(curves)),
        section("Cost against quality", image(cost)),
        *(section("Guidance along the chain", image(png(path))) for path in [_path_curves(outcomes)] if path),
        section("The best at each value", table(*_best_at_each_value(outcomes))),
        section("Numbers", table(head, rows, marked=list(outcomes).index(best))),
        *(section(f"Samples by {_axis_label(option)}: {in_words(others_of(best, option))}", _beside(outcomes, option))
          for option in (against, *further)),
    ]  # fmt: skip
    write_page(out / "report.html", title, sections)
    return out / "report.html"


def quality_curves(outcomes: Sequence[Outcome], *, real: Mapping[str, float] | None = None) -> Figure:
    """Each headline number against `curve_axis`, a line for each combination of the other axes; real: those of held-out
    real images, for a dotted line."""
    shown_numbers = [number.key for number in HEADLINES if all(number.key in outcome.metrics for outcome in outcomes)]
    against = curve_axis(outcomes)
    values = values_of(outcomes, against)
    lines, names = _lines(outcomes, against), [shown(value) for value in values]
    is_long = max(map(len, names)) * len(names) > 50  # characters, which would overlap side by side
    rows = -(-len(shown_numbers) // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 3.4 * rows + 0.2 * len(lines) / COLUMNS), layout="constrained")
    axes = [figure.add_subplot(rows, COLUMNS, place + 1) for place in range(len(shown_numbers))]
    for axis, key in zip(axes, shown_numbers, strict=True):
        for (label, line), (style, colour) in zip(lines.items(), cycle(product(("-", "--"), range(6))), strict=False):
            found = sorted((values.index(o.setting[against]), o.metrics[key]) for o in line)
            axis.plot(*zip(*found, strict=True), marker="o", label=label, linestyle=style, color=f"C{colour}")
        if real is not None and key in real:
            axis.axhline(real[key], color="grey", linestyle=":", label="held-out real")
        axis.set(title=outcomes[0].display_names[key], xlabel=_axis_label(against))
        axis.set_xticks(range(len(values)), names, **({"rotation": 35, "ha": "right"} if is_long else {}))
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=COLUMNS)
    return figure


def _path_curves(outcomes: Sequence[Outcome]) -> Figure | None:
    options, ranked = _swept(outcomes), sorted(outcomes, key=lambda outcome: outcome.rank)[:MOST_LINES]
    settings = [{option: outcome.setting[option] for option in options} for outcome in ranked]
    words = [in_words(setting, longest=LONGEST_TEXT) or ranked[0].name for setting in settings]
    return path_curves({name: outcome.measured for name, outcome in zip(words, ranked, strict=True)})


def cost_curve(outcomes: Sequence[Outcome]) -> Figure:
    """The ranking number at each sampler's best setting against evaluations of denoising networks; the other axes'
    values are written beside each point."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    written = [option for option in _swept(outcomes) if option not in (SAMPLER, STEPS)] or [SCALE]
    for sampler in dict.fromkeys(outcome.sampler for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.sampler == sampler]
        costs = sorted({outcome.network_evaluations for outcome in own})
        best = [best_of([outcome for outcome in own if outcome.network_evaluations == cost]) for cost in costs]
        axis.plot(costs, [outcome.rank for outcome in best], marker="o", label=sampler)
        for outcome in best:
            place = (outcome.network_evaluations, outcome.rank)
            text = in_words({option: outcome.setting[option] for option in written}, longest=LONGEST_TEXT)
            axis.annotate(text, place, textcoords="offset points", xytext=(5, 5), fontsize=8)
    axis.margins(0.1)  # for what is written beside the points
    ylabel = outcomes[0].display_names[RANKING.key]
    axis.set(xlabel="evaluations of denoising networks for each sample", ylabel=ylabel)
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def metric_cells(metrics: Mapping[str, float], keys: Sequence[str]) -> list[str]:
    """A table's cells of those metrics, empty for one that is missing."""
    return [f"{metrics[key]:.3f}" if key in metrics else "" for key in keys]


def _lines(outcomes: Sequence[Outcome], against: str) -> dict[str, list[Outcome]]:
    """The curves, by the axes that differ between them: at most `MOST_LINES`, those with the best settings."""
    options = [option for option in _swept(outcomes) if option != against] or [SAMPLER, STEPS]
    lines: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        label = in_words({option: outcome.setting[option] for option in options}, longest=LONGEST_TEXT)
        lines.setdefault(label, []).append(outcome)
    kept = sorted(lines, key=lambda label: best_of(lines[label]).rank)[:MOST_LINES]
    return {label: line for label, line in lines.items() if label in kept}


def _beside(outcomes: Sequence[Outcome], option: str) -> Markup:
    """Pictures of the best setting and of those that differ from it in one axis."""
    best = best_of(outcomes)
    own = [outcome for outcome in outcomes if others_of(outcome, option) == others_of(best, option)]
    return gallery([(in_words({option: outcome.setting[option]}), outcome.grid.read_bytes()) for outcome in own])


def _swept(outcomes: Sequence[Outcome]) -> list[str]:
    """The axes of more than one value."""
    return [option for option in outcomes[0].setting if len(values_of(outcomes, option)) > 1]


def _best_at_each_value(outcomes: Sequence[Outcome]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table: for each value of each axis the smallest rank, and the rest of that setting."""
    rows, options = list[list[str]](), _swept(outcomes)
    for option in options:
        for value in values_of(outcomes, option):
            best = best_of([outcome for outcome in outcomes if outcome.setting[option] == value])
            rest = in_words({name: best.setting[name] for name in options if name != option})
            rows.append([_axis_label(option), shown(value), f"{best.rank:.3f}", rest])
    return ["axis", "value", outcomes[0].display_names[RANKING.key], "at"], rows


def _axis_label(option: str) -> str:
    names = {SCALE: "guidance scale s", SAMPLER: "sampler", STEPS: "number of steps"}
    return names.get(option, short_name(option))


def _is_number(value: Any) -> bool:  # of an option of any type
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cells(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Rows of a table of the headline numbers that any setting has, the head first."""
    numbers = [number.key for number in HEADLINES if any(number.key in outcome.metrics for outcome in outcomes)]
    options = [name for name in outcomes[0].setting if name != SCALE or values_of(outcomes, SCALE) != [None]]
    heads = {SAMPLER: "sampler", STEPS: "steps", SCALE: "s"}
    head = [heads.get(name, short_name(name)) for name in options]
    measured = ["nats"] if any("nats" in outcome.measured for outcome in outcomes) else []
    rows = [[*head, "evaluations", *measured, *(outcomes[0].display_names[key] for key in numbers)]]
    for outcome in outcomes:
        nats = [f"{outcome.measured[name]:.2f}" if name in outcome.measured else "" for name in measured]
        own = ["" if name == SCALE and outcome.scale is None else shown(outcome.setting[name]) for name in options]
        rows.append([*own, str(outcome.network_evaluations), *nats, *metric_cells(outcome.metrics, numbers)])
    return rows
