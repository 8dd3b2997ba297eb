"""Table and figure of a diagnosis."""

import math
from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .diagnosis import Diagnosis, LevelReport, informed_levels

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
    (accuracy, likelihood), (calibration, correction) = figure.subplots(2, 2, sharex=True)

    _curve(accuracy, diagnosis, lambda level: level.accuracy, title="Accuracy")
    accuracy.plot(*_points(diagnosis, lambda level: level.confidence), "--", color="C1", label="mean confidence")
    accuracy.axhline(diagnosis.chance, color="grey", linestyle=":", label="chance")
    accuracy.set(ylabel="share of the images", ylim=(0, 1.03))

    _curve(likelihood, diagnosis, lambda level: level.log_likelihood, title="Log-likelihood of the right class")
    likelihood.axhline(math.log(diagnosis.chance), color="grey", linestyle=":", label="chance")
    likelihood.set(ylabel="mean log p(y | x_t), nats")
    likelihood.set_ylim(top=max(0.0, likelihood.get_ylim()[1]))

    _curve(calibration, diagnosis, lambda level: level.calibration_error, title="Expected calibration error")
    calibration.set(ylabel="mean |accuracy − confidence|", xlabel="timestep t (noise grows to the right)")
    calibration.set_ylim(bottom=0)

    _curve(correction, diagnosis, lambda level: level.correction, title="Guidance at scale 1, relative to the noise")
    correction.set(ylabel="√(1 − ᾱ) ‖∇ log p(y | x_t)‖ / ‖ε‖", xlabel="timestep t (noise grows to the right)")
    correction.set_ylim(bottom=0)
    figure.legend(*accuracy.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _points(diagnosis: Diagnosis, value: Callable[[LevelReport], float]) -> tuple[list[float], list[float]]:
    return [level.t for level in diagnosis.levels], [value(level) for level in diagnosis.levels]


def _curve(axis: Axes, diagnosis: Diagnosis, value: Callable[[LevelReport], float], *, title: str) -> None:
    """A marker a level, hollow where the classifier is no better than chance."""
    axis.plot(*_points(diagnosis, value), marker="o", markersize=5, label="measured")
    informed = informed_levels(diagnosis)
    unknown = [level for level in diagnosis.levels if level not in informed]
    if unknown:
        axis.plot(
            [level.t for level in unknown],
            [value(level) for level in unknown],
            linestyle="none",
            marker="o",
            markersize=5,
            markerfacecolor="white",
            color="C0",
            label="measured, no better than chance",
        )
    axis.set_title(title, fontsize=11)
    axis.grid(alpha=0.3)
