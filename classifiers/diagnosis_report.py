"""Tables and figure of a diagnosis."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from guided_diffusion.data.subset import evenly_spaced

from .diagnosis import Diagnosis, LevelReport, PairReport

_COLUMNS: dict[str, Callable[[LevelReport], str]] = {
    "t": lambda level: f"{level.t:g}",
    "signal": lambda level: f"{level.alpha_bar:.5f}",
    "accuracy": lambda level: f"{level.accuracy:.1%}",
    "log p(y), nats": lambda level: f"{level.log_likelihood:.3f}",
    "ECE": lambda level: f"{level.calibration_error:.3f}",
    "entropy": lambda level: f"{level.entropy:.3f}",
    "correction": lambda level: f"{level.correction:.4f}",
    "nats": lambda level: "" if level.nats is None else f"{level.nats:.3f}",
    "slope error": lambda level: f"{level.slope_error:.0e}",
}

_PAIR_COLUMNS: dict[str, Callable[[PairReport], str]] = {
    "t": lambda pair: f"{pair.t:g}",
    "to s": lambda pair: f"{pair.s:g}",
    "nats spent": lambda pair: f"{pair.spent:.3f}",
    "gained": lambda pair: f"{pair.gained:.3f}",
    "moved": lambda pair: f"{pair.moved:.4f}",
    "z": lambda pair: f"{pair.z:.1f}",
    "p at t": lambda pair: f"{pair.worst.p_t:.3f}",
    "p at s": lambda pair: f"{pair.worst.p_s:.3f}",
}

_PANELS: tuple[tuple[str, str, Callable[[LevelReport], float]], ...] = (
    ("Accuracy", "share of the images", lambda level: level.accuracy),
    ("Log-likelihood of the right class", "mean log p(y | x_t), nats", lambda level: level.log_likelihood),
    ("Expected calibration error", "mean |accuracy − confidence|", lambda level: level.calibration_error),
    ("Guidance at scale 1, relative to the noise", "√(1 − ᾱ) ‖∇ log p(y | x_t)‖ / ‖ε‖", lambda level: level.correction),
)
"""Title, label of the y axis and curve of each panel."""

MOST_CURVES = 5
"""Pairs of levels in the panel of the martingale test, besides the least consistent one."""


def format_diagnosis(diagnosis: Diagnosis) -> str:
    """A table with a row a noise level, one with a row a pair of neighbouring levels, and a legend of each."""
    paired = bool(diagnosis.pairs)
    columns = {name: cell for name, cell in _COLUMNS.items() if paired or name != "nats"}
    legend = [
        "ECE: expected calibration error. entropy: of the prediction, 1 = uniform. correction: of eps at",
        "scale 1, as a share of eps. slope error: of the gradient against finite differences, relative.",
    ]
    lines = [
        f"{diagnosis.num_images} images of {diagnosis.data}; chance: {diagnosis.chance:.1%}, "
        f"{math.log(diagnosis.chance):.3f} nats",
        "",
        *_table(columns, diagnosis.levels),
        "",
        *legend,
    ]
    if paired:
        lines += [
            "nats: spent by guidance at scale 1 near the level; they sum to those of all links of the chain.",
            "",
            "Between neighbouring levels, from the noisier t to s, along one noising path of each image:",
            "",
            *_table(_PAIR_COLUMNS, diagnosis.pairs),
            "",
            "gained: rise of the mean log p(y), nats; an exact classifier spends as much. moved: probability",
            "that moves between bins of p(y | x_t). z: change of the bin that changes most, standard errors;",
            "p at t, p at s: its mean probability at both levels, equal for an exact classifier.",
        ]
    return "\n".join(lines)


def _table(columns: dict[str, Callable[[Any], str]], records: Sequence[LevelReport | PairReport]) -> list[str]:
    rows = [tuple(columns), *(tuple(cell(record) for cell in columns.values()) for record in records)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]


def diagnosis_figure(diagnosis: Diagnosis) -> Figure:
    """Accuracy, log-likelihood, calibration error and correction against the timestep, hollow at chance level.

    With several levels also the nats spent and gained between them, and the curves of the martingale test.
    """
    columns = 3 if diagnosis.pairs else 2
    figure = Figure(figsize=(5 * columns, 7), layout="constrained")
    figure.suptitle(f"{diagnosis.classifier} on {diagnosis.num_images} images of {diagnosis.data}")
    grid = figure.subplots(2, columns)
    axes = list(grid[:, :2].flat)
    for axis, (title, label, value) in zip(axes, _PANELS, strict=True):
        _draw_levels(axis, diagnosis, value)
        axis.set_title(title, fontsize=11)
        axis.set_ylabel(label)
    accuracy, likelihood, calibration, correction = axes
    accuracy.plot(
        [level.t for level in diagnosis.levels], [level.confidence for level in diagnosis.levels], "--", color="C1",
        label="mean confidence",
    )  # fmt: skip
    for axis, chance in ((accuracy, diagnosis.chance), (likelihood, math.log(diagnosis.chance))):
        axis.axhline(chance, color="grey", linestyle=":", label="chance")
    accuracy.set_ylim(0, 1.03)
    likelihood.set_ylim(top=max(0.0, likelihood.get_ylim()[1]))
    for axis in (calibration, correction):
        axis.set_ylim(bottom=0)
        axis.set_xlabel("timestep t (noise grows to the right)")
    figure.legend(*accuracy.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    if diagnosis.pairs:
        _draw_information(grid[0, 2], diagnosis.pairs)
        _draw_martingale(grid[1, 2], diagnosis.pairs)
    return figure


def _draw_levels(axis: Axes, diagnosis: Diagnosis, value: Callable[[LevelReport], float]) -> None:
    levels, unknown = diagnosis.levels, [level for level in diagnosis.levels if not diagnosis.is_informed(level)]
    axis.plot([level.t for level in levels], list(map(value, levels)), marker="o", markersize=5, label="measured")
    if unknown:
        axis.plot(
            [level.t for level in unknown], list(map(value, unknown)), linestyle="none", marker="o",
            markersize=5, markerfacecolor="white", color="C0", label="measured, no better than chance",
        )  # fmt: skip
    axis.grid(alpha=0.3)


def _draw_information(axis: Axes, pairs: Sequence[PairReport]) -> None:
    edges = [pairs[0].s, *(pair.t for pair in pairs)]
    axis.stairs([pair.spent for pair in pairs], edges, fill=True, alpha=0.35, label="spent at scale 1")
    axis.stairs([pair.gained for pair in pairs], edges, color="C1", linewidth=2, label="gained in log p(y | x_t)")
    axis.axhline(0, color="grey", linewidth=0.8)
    axis.grid(alpha=0.3)
    axis.set_title("Nats between noise levels", fontsize=11)
    axis.set_xlabel("timestep t")
    axis.set_ylabel("nats")
    axis.legend(fontsize=9)


def _draw_martingale(axis: Axes, pairs: Sequence[PairReport]) -> None:
    worst = max(range(len(pairs)), key=lambda i: pairs[i].z)
    shown = [pairs[i] for i in sorted({worst, *evenly_spaced(len(pairs), most=MOST_CURVES)})]
    for curve, pair in enumerate(shown):
        axis.errorbar(
            [one.p_t for one in pair.bins], [one.p_s for one in pair.bins], [one.standard_error for one in pair.bins],
            color=colormaps["viridis"](curve / len(shown)), marker="o", markersize=3, linewidth=1,
            label=f"t = {pair.t:g} to {pair.s:g}",
        )  # fmt: skip
    axis.plot([0, 1], [0, 1], color="grey", linestyle=":")
    axis.grid(alpha=0.3)
    axis.set_title("Martingale test: the diagonal is consistent", fontsize=11)
    axis.set_xlabel("p(y | x_t), mean of a bin")
    axis.set_ylabel("mean p(y | x_s), s less noisy")
    axis.legend(fontsize=8)
