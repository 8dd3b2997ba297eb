"""Plots of evaluation: a common frame, and two numbers of several reports against each other."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .compare import Comparison


def new_figure(*, width: float, height: float = 3.4) -> tuple[Figure, Axes]:
    """A figure of that many inches with one axis and a grid."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axis = figure.subplots()
    axis.grid(alpha=0.3)
    axis.set_axisbelow(True)
    return figure, axis


def scatter_figure(comparison: Comparison, *, x: str, y: str) -> Figure:
    """One number against another, a point for each evaluation that has both."""
    figure, axis = new_figure(width=6, height=4.5)
    for letter, report in zip(comparison.letters, comparison.reports, strict=True):
        if {x, y} <= report.metrics.keys():
            place = report.metrics[x], report.metrics[y]
            axis.plot(*place, "o")
            axis.annotate(letter, place, textcoords="offset points", xytext=(6, 6))
    axis.margins(0.2)
    axis.set(xlabel=x, ylabel=y)
    return figure
