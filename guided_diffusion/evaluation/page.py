"""HTML pages: one evaluation with its figures, images and protocol, and a comparison of several."""

import html
import io
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ..data.image_set import ImageSet
from ..data.pictures import picture
from ..diffusion.images import grid
from ..html import image, png, section, table, write_page
from .compare import Comparison, metric_table
from .measure import spread_over
from .metrics import METRICS, NUMBERS
from .protocol import flat_protocol
from .report import Report, shown_name
from .report_text import rows_of, worst_classes

PICTURES = 24
"""Of each side, spread over it."""
COLUMNS = 6
MOST_WIDTH = 800
"""Pixels of a grid of pictures, about; a larger one is reduced by a whole number."""


def write_evaluation_page(path: Path, report: Report, *, generated: ImageSet, real: ImageSet | None) -> None:
    """Write a report as a page, with pictures of both sets. real: None if there are statistics only.

    Raises:
        ValueError, OSError: an image that cannot be read, or a place that cannot be written to.
    """
    title = f"Evaluation of {report.protocol['generated']['path']}"
    sections = [
        _STYLE + f"<h1>{html.escape(title)}</h1>" + _summary(report) + _headlines(report) + _warnings(report),
        section("Numbers", _number_table(report)),
        *_figure_sections(report),
        section("Images", _image_grids(generated, real)),
        section("Protocol", _protocol_table(report)),
    ]
    write_page(path, title, sections)


def write_comparison_page(path: Path, comparison: Comparison) -> None:
    """Write a comparison as a page."""
    letters = comparison.letters
    named = [[letter, str(file)] for letter, file in zip(letters, comparison.paths, strict=True)]
    sections = [
        f"{_STYLE}<h1>Comparison of evaluations</h1><p><strong>{html.escape(comparison.verdict)}</strong></p>",
        _text_table(("", "evaluation"), named),
        section("Numbers", f"<div class='numbers'>{table(*metric_table(comparison))}</div>"),
    ]
    for heading, differences in comparison.groups.items():
        rows = [[item.name, *item.values] for item in differences]
        sections.append(section(heading, _text_table(("", *letters), rows)))
    write_page(path, "Comparison of evaluations", sections)


def _summary(report: Report) -> str:
    generated, real, extractor = (report.protocol[part] for part in ("generated", "real", "extractor"))
    text = (
        f"{generated['num_images']} generated images against {real['num_images']} real ones of {real['path']}, on the "
        f"features of {extractor['name']}."
    )
    return f"<p>{html.escape(text)}</p>"


def _headlines(report: Report) -> str:
    tiles = (
        f"<div><span>{html.escape(row.name)}</span><strong>{html.escape(row.value)}</strong>"
        f"<small>{html.escape(row.spread)}</small></div>"
        for row in rows_of(report)
        if NUMBERS[row.key].is_headline
    )
    return f"<div class='tiles'>{''.join(tiles)}</div>"


def _number_table(report: Report) -> str:
    extractor = report.protocol["extractor"]["name"]
    rows = [[row.name, row.value, _better(row.key), row.spread, extractor] for row in rows_of(report)]
    rows += [[shown_name(report, key), "absent", "", reason, ""] for key, reason in report.absent.items()]
    return _text_table(("metric", "value", "better", "spread, or reason for its absence", "extractor"), rows)


def _better(key: str) -> str:
    return "lower" if NUMBERS[key].lower_is_better else "higher"


def _figure_sections(report: Report) -> list[str]:
    drawn = ((heading, draw(report)) for metric in METRICS for heading, draw in metric.figures.items())
    sections = [section(heading, image(png(figure))) for heading, figure in drawn if figure]
    if report.per_class_accuracy:
        rows = _text_table(("class", "accuracy"), worst_classes(report))
        sections.append(section("Classes of the lowest accuracy", rows))
    return sections


def _warnings(report: Report) -> str:
    items = "".join(f"<li>{html.escape(warning)}</li>" for warning in report.warnings)
    return f"<p>Reasons to doubt the numbers:</p><ul>{items}</ul>" if items else ""


def _image_grids(generated: ImageSet, real: ImageSet | None) -> str:
    sets = {"generated": generated} | ({} if real is None else {"real": real})
    figures = [
        f"<figure>{image(_picture(_some(source)))}<figcaption>{name}: {html.escape(str(source.path))}"
        f"</figcaption></figure>"
        for name, source in sets.items()
    ]
    return _side_by_side(figures)


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
    values = flat_protocol(report.protocol)
    return _text_table(("", ""), [[name, "none" if value is None else str(value)] for name, value in values.items()])


def _text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return f"<div class='text'>{table(head, rows)}</div>"


def _side_by_side(parts: Sequence[str]) -> str:
    return f"<div class='side-by-side'>{''.join(parts)}</div>"


_STYLE = """<style>
.text td, .text th { text-align: left; overflow-wrap: anywhere; }
.numbers td:first-child { text-align: left; }
.side-by-side { display: grid; grid-template-columns: 1fr 1fr; gap: 1.5rem; align-items: start; }
.side-by-side figure img { image-rendering: pixelated; width: 100%; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: .8rem; }
.tiles div { display: flex; flex-direction: column; background: #f4f4f4; padding: .6rem .9rem; }
.tiles strong { font-size: 1.6rem; line-height: 1.3; white-space: nowrap; } .tiles small { color: #666; }
</style>"""
