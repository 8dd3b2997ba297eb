"""HTML pages: one evaluation with its figures, images and protocol, and a comparison of several."""

import io
from collections.abc import Sequence
from pathlib import Path

from ..data.image_set import ImageSet
from ..data.pictures import picture
from ..diffusion.images import grid
from ..html import Markup, gallery, image, png, section, table, write_page
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
    """Write a report as a page, with pictures of both sets; real: None if there are statistics only."""
    figures = ((heading, draw(report)) for metric in METRICS for heading, draw in metric.figures.items())
    sections = [
        _head(report),
        section("Numbers", _number_table(report)),
        *(section(heading, image(png(figure))) for heading, figure in figures if figure),
    ]
    if report.per_class_accuracy:
        rows = _text_table(("class", "accuracy"), worst_classes(report))
        sections.append(section("Classes of the lowest accuracy", rows))
    sets = {"generated": generated, "real": real}
    grids = [(f"{name}: {source.path}", _grid(source)) for name, source in sets.items() if source]
    sections.append(section("Images", gallery(grids)))
    values = {name: "none" if value is None else str(value) for name, value in flat_protocol(report.protocol).items()}
    sections.append(section("Protocol", _text_table(("", ""), list(values.items()))))
    write_page(path, f"Evaluation of {report.protocol['generated']['path']}", sections)


def write_comparison_page(path: Path, comparison: Comparison) -> None:
    """Write a comparison as a page."""
    letters = comparison.letters
    named = [[letter, str(file)] for letter, file in zip(letters, comparison.paths, strict=True)]
    sections = [
        _STYLE + Markup("<h1>Comparison of evaluations</h1><p><strong>{}</strong></p>").format(comparison.verdict),
        _text_table(("", "evaluation"), named),
        section("Numbers", Markup("<div class='numbers'>{}</div>").format(table(*metric_table(comparison)))),
    ]
    for heading, differences in comparison.groups.items():
        rows = [[item.name, *item.values] for item in differences]
        sections.append(section(heading, _text_table(("", *letters), rows)))
    write_page(path, "Comparison of evaluations", sections)


def _head(report: Report) -> Markup:
    """Title, summary, headlines and warnings."""
    generated, real, extractor = (report.protocol[part] for part in ("generated", "real", "extractor"))
    summary = (
        f"{generated['num_images']} generated images against {real['num_images']} real ones of {real['path']}, on the "
        f"features of {extractor['name']}."
    )
    tile = Markup("<div><span>{}</span><strong>{}</strong><small>{}</small></div>")
    tiles = [tile.format(row.name, row.value, row.spread) for row in rows_of(report) if NUMBERS[row.key].is_headline]
    warnings = [Markup("<li>{}</li>").format(warning) for warning in report.warnings]
    head = Markup("<h1>Evaluation of {}</h1><p>{}</p><div class='tiles'>{}</div>")
    doubts = Markup("<p>Reasons to doubt the numbers:</p><ul>{}</ul>").format(Markup().join(warnings))
    page_head = _STYLE + head.format(generated["path"], summary, Markup().join(tiles))
    return page_head + doubts if warnings else page_head


def _number_table(report: Report) -> Markup:
    extractor = report.protocol["extractor"]["name"]
    better = {key: "lower" if item.lower_is_better else "higher" for key, item in NUMBERS.items()}
    rows = [[row.name, row.value, better[row.key], row.spread, extractor] for row in rows_of(report)]
    rows += [[shown_name(report, key), "absent", "", reason, ""] for key, reason in report.absent.items()]
    return _text_table(("metric", "value", "better", "spread, or reason for its absence", "extractor"), rows)


def _grid(source: ImageSet) -> bytes:
    """At most `PICTURES` images of a set, in its order, as one PNG; large ones are reduced."""
    images = source.read(spread_over(len(source), keep=PICTURES).tolist())
    tiled, encoded = picture(grid(images, columns=COLUMNS)), io.BytesIO()
    tiled.reduce(max(1, tiled.width // MOST_WIDTH)).save(encoded, format="PNG")
    return encoded.getvalue()


def _text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    return Markup("<div class='text'>{}</div>").format(table(head, rows))


_STYLE = Markup("""<style>
.text td, .text th { text-align: left; overflow-wrap: break-word; }
.text td:last-child { overflow-wrap: anywhere; }
.numbers td:first-child { text-align: left; }
.gallery { grid-template-columns: 1fr 1fr; gap: 1.5rem; align-items: start; } .gallery img { width: 100%; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: .8rem; }
.tiles div { display: flex; flex-direction: column; background: #f4f4f4; padding: .6rem .9rem; }
.tiles strong { font-size: 1.6rem; line-height: 1.3; white-space: nowrap; } .tiles small { color: #666; }
</style>""")
