"""Table and figure of a diagnosis."""

import math
from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .diagnosis import Diagnosis, LevelReport

_COLUMNS: dict[str, Callable[[LevelReport], str]] = {
    "t": lambda level: f"{level.t:g}",
    "signal": lambda level: f"{level.alpha_bar:.5f}",
    "accuracy": lambda level: f"{level.accuracy:.1%}",
    "log p(y), nats": lambda level: f"{level.log_likelihood:.3f}",
    "ECE": lambda level: f"{level.calibration_error:.3f}",
    "entropy": lambda level: f"{level.entropy:.3f}",
    "correction": lambda level: f"{level.correction:.4f}",
    "slope error": lambda level: f"{level.slope_error:.0e}",
}

Value = Callable[[LevelReport], float]
_PANELS: tuple[tuple[str, str, Value], ...] = (
    ("Accuracy", "share of the images", lambda level: level.accuracy),
    ("Log-likelihood of the right class", "mean log p(y | x_t), nats", lambda level: level.log_likelihood),
    ("Expected calibration error", "mean |accuracy − confidence|", lambda level: level.calibration_error),
    ("Guidance at scale 1, relative to the noise", "√(1 − ᾱ) ‖∇ log p(y | x_t)‖ / ‖ε‖", lambda level: level.correction),
)
"""Title, label of the y axis and curve of each panel."""


def format_diagnosis(diagnosis: Diagnosis) -> str:
    """A table with a row a noise level and a legend."""
    rows = [tuple(_COLUMNS), *(tuple(cell(level) for cell in _COLUMNS.values()) for level in diagnosis.levels)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        [
            f"{diagnosis.num_images} images of {diagnosis.data}; chance: {diagnosis.chance:.1%}, "
            f"{math.log(diagnosis.chance):.3f} nats",
            "",
            *("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows),
            "",
            "ECE: expected calibration error. entropy: of the prediction, 1 = uniform. correction: of eps at scale 1,",
            "as a share of eps. slope error: of the gradient against finite differences, relative.",
        ]
    )


def diagnosis_figure(diagnosis: Diagnosis) -> Figure:
    """Accuracy, log-likelihood, calibration error and correction against the timestep."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    figure.suptitle(f"{diagnosis.classifier} on {diagnosis.num_images} images of {diagnosis.data}")
    axes = list(figure.subplots(2, 2, sharex=True).flat)
    for axis, (title, label, value) in zip(axes, _PANELS, strict=True):
        _curve(axis, diagnosis, value)
        axis.set_title(title, fontsize=11)
        axis.set_ylabel(label)
    accuracy, likelihood, calibration, correction = axes
    accuracy.plot(*_points(diagnosis, lambda level: level.confidence), "--", color="C1", label="mean confidence")
    for axis, chance in ((accuracy, diagnosis.chance), (likelihood, math.log(diagnosis.chance))):
        axis.axhline(chance, color="grey", linestyle=":", label="chance")
    accuracy.set_ylim(0, 1.03)
    likelihood.set_ylim(top=max(0.0, likelihood.get_ylim()[1]))
    for axis in (calibration, correction):
        axis.set_ylim(bottom=0)
        axis.set_xlabel("timestep t (noise grows to the right)")
    figure.legend(*accuracy.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _points(diagnosis: Diagnosis, value: Value) -> tuple[list[float], list[float]]:
    return [level.t for level in diagnosis.levels], [value(level) for level in diagnosis.levels]


def _curve(axis: Axes, diagnosis: Diagnosis, value: Value) -> None:
    """A marker a level, hollow where the classifier is no better than chance."""
    axis.plot(*_points(diagnosis, value), marker="o", markersize=5, label="measured")
    if unknown := [level for level in diagnosis.levels if not diagnosis.is_informed(level)]:
        axis.plot(
            [level.t for level in unknown], [value(level) for level in unknown], linestyle="none", marker="o",
            markersize=5, markerfacecolor="white", color="C0", label="measured, no better than chance",
        )  # fmt: skip
    axis.grid(alpha=0.3)
