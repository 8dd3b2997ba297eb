"""An evaluation as one HTML page: numbers, what lies behind them, both sets of images, and the protocol.

And a page of several evaluations beside each other.
"""

import html
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..data.image_set import ImageSet
from ..data.pictures import picture
from ..diffusion.images import grid
from ..html import image, png, section, table, write_page
from .compare import Comparison, metric_table
from .measure import spread_over
from .protocol import command_of, flat_protocol
from .report import WORST_CLASSES, Report, entries, shown_name

PICTURES = 24
"""Of each side, spread over it."""
COLUMNS = 6
MOST_WIDTH = 800
"""Pixels of a grid of pictures, about; of a larger one every so many become one."""
HEADLINES = (
    "frechet_distance", "spatial_frechet_distance", "inception_score", "precision", "recall", "accuracy",
)  # fmt: skip
"""Metrics in large type."""
LEAST_SPREAD = 1e-4
"""Of a histogram, relative to the number it is about: that of the last of four digits. Distances that differ by
rounding alone are one bar, and no number of bins fits between them."""
MOST_BARS = 40
"""Classes that a bar each fits; of more, a curve is drawn."""


def write_evaluation_page(path: Path, report: Report, *, generated: ImageSet, real: ImageSet | None) -> None:
    """Write a report as a page, with pictures of both sides. real: None, where there are statistics only.

    Raises:
        ValueError, OSError: an image that cannot be read, or a place that cannot be written to.
    """
    title = f"Evaluation of {report.protocol['generated']['path']}"
    figures = [figure for figure in (_class_section(report), _confidence_section(report)) if figure]
    sections = [
        _STYLE + f"<h1>{html.escape(title)}</h1>" + _summary(report) + _headlines(report) + _doubts(report),
        section("Numbers", _number_table(report)),
        *figures,
        section("Images", _image_grids(generated, real)),
        section("Protocol", _protocol_table(report)),
        section("Repeat", _repetition(report)),
    ]
    write_page(path, title, sections)


def write_comparison_page(path: Path, comparison: Comparison) -> None:
    """Write a comparison as a page."""
    letters = comparison.letters
    named = [[letter, str(file)] for letter, file in zip(letters, comparison.paths, strict=True)]
    sections = [
        f"{_STYLE}<h1>Evaluations beside each other</h1><p><strong>{html.escape(comparison.verdict)}</strong></p>",
        _words_table(("", "evaluation"), named),
        section("Numbers", f"<div class='numbers'>{table(*metric_table(comparison))}</div>"),
        *_scatter_section(comparison),
    ]
    for heading, differences in comparison.groups.items():
        rows = [[item.name, *item.values] for item in differences]
        sections.append(section(heading, _words_table(("", *letters), rows)))
    write_page(path, "Evaluations beside each other", sections)


def class_accuracy_figure(report: Report) -> Figure:
    """Accuracy of each class, in ascending order: bars by name, or a curve where there are too many to name."""
    ranked = sorted(report.per_class_accuracy.items(), key=lambda item: item[1])
    values = [accuracy for _, accuracy in ranked]
    figure, axis = _figure(width=9)
    if len(ranked) <= MOST_BARS:
        axis.bar(range(len(ranked)), values)
        # A class may be called anything, and two dollars are no formula.
        axis.set_xticks(range(len(ranked)), [name for name, _ in ranked], rotation=45, ha="right", parse_math=False)
    else:
        axis.fill_between(range(1, len(ranked) + 1), values, alpha=0.3)
        axis.plot(range(1, len(ranked) + 1), values)
        axis.set_xlabel("classes, the least accurate first")
        axis.set_xlim(1, len(ranked))
    if "accuracy" in report.metrics:
        axis.axhline(report.metrics["accuracy"], color="grey", linestyle=":", label="all samples")
        figure.legend(loc="outside upper right")
    axis.set(ylabel="accuracy", ylim=(0, 1.02))
    return figure


def extrapolation_figure(report: Report) -> Figure:
    """The Fréchet distance of growing subsets against 1/N, and the line that leads to infinitely many samples."""
    found = report.details["extrapolation"]
    inverse, distances = 1 / np.array(found["sizes"], dtype=float), np.array(found["distances"], dtype=float)
    # The least-squares line through its own intercept, which is the extrapolated distance.
    slope = inverse @ (distances - found["distance"]) / (inverse @ inverse)
    figure, axis = _figure(width=6)
    ends = np.array([0, inverse.max()])
    axis.plot(ends, found["distance"] + slope * ends, color="grey", linestyle="--")
    axis.plot(inverse, distances, "o", label="subsets")
    name = shown_name(report, "frechet_distance_extrapolated")
    axis.errorbar(0, found["distance"], found["standard_error"], fmt="s", capsize=4, label=name)
    axis.set(xlabel="1 / N", ylabel="Fréchet distance")
    axis.ticklabel_format(axis="x", scilimits=(0, 0))
    _legend(axis)
    return figure


def bootstrap_figure(report: Report) -> Figure:
    """How far the resampled generated images' distances scatter, about that of the images themselves."""
    found, itself = report.details["bootstrap"], report.metrics["frechet_distance"]
    distances = np.array(found["distances"])
    figure, axis = _figure(width=6)
    # Only their scatter tells: resampling repeats images, which moves all of the distances up.
    shown = distances - distances.mean() + itself
    ends = itself * (1 - LEAST_SPREAD / 2), itself * (1 + LEAST_SPREAD / 2)
    span = min(shown.min(), *ends), max(shown.max(), *ends)
    # Rice's number of bins knows only how many there are: widths by the quartiles, as numpy's "auto" takes them, make
    # millions of bins where all distances but one are nearly the same.
    axis.hist(shown, bins=math.ceil(2 * len(shown) ** (1 / 3)), range=span, alpha=0.6)
    axis.axvspan(found["low"], found["high"], alpha=0.15, color="grey", label=f"{found['confidence']:.0%} interval")
    axis.axvline(itself, color="black", label=shown_name(report, "frechet_distance"))
    axis.set(xlabel="Fréchet distance, resampled, about its own mean", ylabel="resamplings")
    _legend(axis)
    return figure


def precision_recall_figure(comparison: Comparison) -> Figure:
    """Precision against recall, a point for each evaluation that has both."""
    figure, axis = _figure(width=6, height=4.5)
    for letter, report in zip(comparison.letters, comparison.reports, strict=True):
        if _has_shares(report):
            place = report.metrics["recall"], report.metrics["precision"]
            axis.plot(*place, "o")
            axis.annotate(letter, place, textcoords="offset points", xytext=(6, 6))
    axis.margins(0.2)
    axis.set(xlabel="recall", ylabel="precision")
    return figure


def _figure(*, width: float, height: float = 3.4) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axis = figure.subplots()
    axis.grid(alpha=0.3)
    axis.set_axisbelow(True)
    return figure, axis


def _legend(axis: Axes) -> None:
    for text in axis.legend().get_texts():
        text.set_parse_math(False)  # names of metrics come from files as well


def _repetition(report: Report) -> str:
    """The command, and which weights it has to find."""
    extractor = report.protocol["extractor"]
    weights = f"The extractor's weights are those with SHA-256 {extractor['sha256']}"
    where = ", the published ones." if extractor["published"] else "; the protocol does not say which file held them."
    return f"<pre>{html.escape(command_of(report.protocol))}</pre><p>{html.escape(weights + where)}</p>"


def _summary(report: Report) -> str:
    generated, real, extractor = (report.protocol[part] for part in ("generated", "real", "extractor"))
    text = (
        f"{generated['num_images']} generated images against {real['num_images']} real ones of {real['path']}, on the "
        f"features of {extractor['name']}."
    )
    return f"<p>{html.escape(text)}</p>"


def _headlines(report: Report) -> str:
    tiles = (
        f"<div><span>{html.escape(entry.name)}</span><strong>{html.escape(entry.value)}</strong>"
        f"<small>{html.escape(entry.spread)}</small></div>"
        for entry in entries(report)
        if entry.metric in HEADLINES
    )
    return f"<div class='tiles'>{''.join(tiles)}</div>"


def _number_table(report: Report) -> str:
    extractor = report.protocol["extractor"]["name"]
    rows = [[entry.name, entry.value, entry.spread, extractor] for entry in entries(report)]
    rows += [[shown_name(report, metric), "absent", reason, ""] for metric, reason in report.absent.items()]
    return _words_table(("metric", "value", "spread, or why it is absent", "extractor"), rows)


def _class_section(report: Report) -> str:
    if not report.per_class_accuracy:
        return ""
    worst = sorted(report.per_class_accuracy.items(), key=lambda item: item[1])[:WORST_CLASSES]
    rows = [[name, f"{accuracy:.4f}"] for name, accuracy in worst]
    figure = image(png(class_accuracy_figure(report)))
    return section("Accuracy of each class", figure + _words_table(("the least accurate", "accuracy"), rows))


def _confidence_section(report: Report) -> str:
    drawn = {"extrapolation": extrapolation_figure, "bootstrap": bootstrap_figure}
    figures = [image(png(draw(report))) for name, draw in drawn.items() if name in report.details]
    return section("How sure the Fréchet distance is", _beside(figures)) if figures else ""


def _scatter_section(comparison: Comparison) -> list[str]:
    if sum(map(_has_shares, comparison.reports)) < 2:
        return []
    return [section("Precision against recall", image(png(precision_recall_figure(comparison))))]


def _has_shares(report: Report) -> bool:
    return {"precision", "recall"} <= report.metrics.keys()


def _doubts(report: Report) -> str:
    told = "".join(f"<li>{html.escape(doubt)}</li>" for doubt in report.doubts)
    return f"<p>Not to be believed without a second look:</p><ul>{told}</ul>" if told else ""


def _image_grids(generated: ImageSet, real: ImageSet | None) -> str:
    sides = {"generated": generated} | ({} if real is None else {"real": real})
    figures = [
        f"<figure>{image(_picture(_some(source)))}<figcaption>{name}: {html.escape(str(source.path))}"
        f"</figcaption></figure>"
        for name, source in sides.items()
    ]
    return _beside(figures)


def _some(source: ImageSet) -> Tensor:
    """At most `PICTURES` images (N, C, H, W) uint8 of a source, in its order."""
    return source.read(spread_over(len(source), keep=PICTURES).tolist())


def _picture(images: Tensor) -> bytes:
    """Images (N, C, H, W) uint8 as one PNG, large ones reduced."""
    tiled = picture(grid(images, columns=COLUMNS))
    encoded = io.BytesIO()
    tiled.reduce(max(1, tiled.width // MOST_WIDTH)).save(encoded, format="PNG")
    return encoded.getvalue()


def _protocol_table(report: Report) -> str:
    told = flat_protocol(report.protocol)
    return _words_table(("", ""), [[name, "none" if value is None else str(value)] for name, value in told.items()])


def _words_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return f"<div class='words'>{table(head, rows)}</div>"


def _beside(parts: Sequence[str]) -> str:
    return f"<div class='beside'>{''.join(parts)}</div>"


_STYLE = """<style>
.words td, .words th { text-align: left; overflow-wrap: anywhere; }
.numbers td:first-child { text-align: left; }
.beside { display: grid; grid-template-columns: 1fr 1fr; gap: 1.5rem; align-items: start; }
.beside figure img { image-rendering: pixelated; width: 100%; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: .8rem; }
.tiles div { display: flex; flex-direction: column; background: #f4f4f4; padding: .6rem .9rem; }
.tiles strong { font-size: 1.6rem; line-height: 1.3; white-space: nowrap; } .tiles small { color: #666; }
</style>"""
