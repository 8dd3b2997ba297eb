"""Self-contained HTML pages: headings, tables, figures and pictures in one file, their texts escaped."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_page(path: Path, title: str, sections: Sequence[str]) -> None:
    """Write a page of sections, each HTML, whole or not at all."""
    text = _PAGE.format(title=html.escape(title), body="\n".join(sections))
    with atomic_write(path) as file:
        file.write(text.encode())


def section(title: str, body: str) -> str:
    """A part of the page under its heading; body: HTML."""
    return f"<h2>{html.escape(title)}</h2>{body}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, marked: int | None = None) -> str:
    """Cells of plain text; marked: the row that is set in bold."""
    lines = [_row("th", head, "")]
    lines += [_row("td", row, " class='marked'" if number == marked else "") for number, row in enumerate(rows)]
    return f"<table>{''.join(lines)}</table>"


def png(figure: "Figure") -> bytes:
    """A figure as a PNG file."""
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png", dpi=110)
    return encoded.getvalue()


def image(content: bytes) -> str:
    """A PNG file, within the page."""
    return f"<img src='data:image/png;base64,{base64.b64encode(content).decode()}'>"


def gallery(pictures: Sequence[tuple[str, bytes]]) -> str:
    """PNG files side by side, each over its caption, enlarged without smoothing."""
    figures = "".join(
        f"<figure>{image(content)}<figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, content in pictures
    )
    return f"<div class='gallery'>{figures}</div>"


def _row(kind: str, cells: Sequence[str], attributes: str) -> str:
    return f"<tr{attributes}>" + "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in cells) + "</tr>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
img {{ max-width: 100%; }} .gallery img {{ image-rendering: pixelated; }}
table {{ border-collapse: collapse; }} td, th {{ padding: .25rem .8rem; text-align: right; }}
tr:nth-child(even) {{ background: #f4f4f4; }} tr.marked {{ font-weight: bold; }}
.gallery {{ display: grid; grid-template-columns: repeat(5, 1fr); gap: 1rem; margin-bottom: 1rem; }}
figure {{ margin: 0; }} pre {{ overflow-x: auto; background: #f4f4f4; padding: 1rem; font-size: 13px; }}
</style></head><body>
{body}
</body></html>
"""
