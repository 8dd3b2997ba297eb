"""Self-contained HTML pages: headings, tables, figures and pictures in one file.

Every text is escaped where it meets markup. `Markup` alone passes as it is, and `Markup("<p>{}</p>").format(text)`
escapes what it inserts: a page from a stored file holds no markup of that file.
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from .files import atomic_write

__all__ = ["Markup", "gallery", "image", "png", "section", "table", "write_page"]

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_page(path: Path, title: str, sections: Sequence[str]) -> None:
    """Write a page of sections, whole or not at all."""
    text = _PAGE.format(title=title, body=Markup("\n").join(sections))
    with atomic_write(path) as file:
        file.write(text.encode())


def section(title: str, body: str) -> Markup:
    """A part of the page under its heading."""
    return Markup("<h2>{}</h2>{}").format(title, body)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, marked: int | None = None) -> Markup:
    """A table; marked: the row that is set in bold."""
    plain, bold = Markup("<tr>{}</tr>"), Markup("<tr class='marked'>{}</tr>")
    lines = [plain.format(_cells(Markup("<th>{}</th>"), head))]
    lines += [
        (bold if number == marked else plain).format(_cells(Markup("<td>{}</td>"), row))
        for number, row in enumerate(rows)
    ]
    return Markup("<table>{}</table>").format(Markup().join(lines))


def png(figure: "Figure") -> bytes:
    """A figure as a PNG file."""
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png", dpi=110)
    return encoded.getvalue()


def image(content: bytes) -> Markup:
    """A PNG file, within the page."""
    return Markup("<img src='data:image/png;base64,{}'>").format(base64.b64encode(content).decode())


def gallery(pictures: Sequence[tuple[str, bytes]]) -> Markup:
    """PNG files side by side, each over its caption, enlarged without smoothing."""
    figure = Markup("<figure>{}<figcaption>{}</figcaption></figure>")
    figures = [figure.format(image(content), caption) for caption, content in pictures]
    return Markup("<div class='gallery'>{}</div>").format(Markup().join(figures))


def _cells(cell: Markup, texts: Sequence[str]) -> Markup:
    return Markup().join(cell.format(text) for text in texts)


_PAGE = Markup("""<!doctype html>
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
""")
