"""Accuracy: the share of samples in which the extractor recognises the class that was asked for."""

from typing import TYPE_CHECKING

import torch

from ...data.labels import matched
from ..config import EvaluationConfig
from ..measure import MeasuredSet
from ..report import Report
from .metric import Metric, Number, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NAMES = 40
"""Classes whose names fit below their bars."""


def class_accuracy_figure(report: Report) -> "Figure | None":
    """Bars of the accuracy of each class, in ascending order, named if there are few."""
    from matplotlib.figure import Figure  # here, since it takes a second to import

    if not report.per_class_accuracy:
        return None
    ranked = sorted(report.per_class_accuracy.items(), key=lambda item: item[1])
    values = [accuracy for _, accuracy in ranked]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axis = figure.subplots()
    axis.grid(alpha=0.3)
    axis.set_axisbelow(True)
    axis.bar(range(len(ranked)), values)
    names = [name for name, _ in ranked] if len(ranked) <= MOST_NAMES else []
    # A class may be called anything, and two dollars are no formula.
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right", parse_math=False)
    if "accuracy" in report.metrics:
        axis.axhline(report.metrics["accuracy"], color="grey", linestyle=":", label="all samples")
        figure.legend(loc="outside upper right")
    axis.set(ylabel="accuracy", ylim=(0, 1.02))
    return figure


def _compute(generated: MeasuredSet, real: MeasuredSet, config: EvaluationConfig) -> Result:
    """Overall and for each class; labels and columns of the probabilities are matched by the names of classes."""
    labels, names, columns = generated.labels, generated.label_names, generated.class_names
    if labels is None or not (labels >= 0).any():
        return Result(missing="the samples carry no labels")
    if names is None:
        return Result(missing="the samples do not name the classes of their labels")
    if columns is None or generated.probabilities is None:
        return Result(missing="the extractor does not know the names of its classes")
    column = torch.tensor(matched(names, columns), device=labels.device)
    if (column < 0).any():
        return Result(missing=f"the extractor does not know the class {names[int((column < 0).nonzero()[0])]!r}")
    labelled = labels >= 0
    labels = labels[labelled]
    right = (generated.probabilities[labelled].argmax(dim=1) == column[labels]).double()
    per_class = {names[label]: float(right[labels == label].mean()) for label in labels.unique().tolist()}
    return Result(values={"accuracy": float(right.mean())}, per_class_accuracy=per_class)


ACCURACY = Metric(
    numbers=(Number(key="accuracy", name="accuracy", is_headline=True),),
    looks_at="labels",
    compute=_compute,
    figures={"Accuracy of each class": class_accuracy_figure},
)
