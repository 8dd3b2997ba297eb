"""HTML pages: every text is escaped, whatever it comes from."""

from pathlib import Path

from guided_diffusion.html import Markup, gallery, section, table, write_page

HOSTILE = "<script>alert('&')</script>"
ESCAPED = "&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;"


def test_every_text_of_a_page_is_escaped_and_no_markup_twice(tmp_path: Path):
    parts = [
        section(HOSTILE, HOSTILE),
        section("Numbers", table([HOSTILE], [[HOSTILE], [HOSTILE]], marked=1)),
        gallery([(HOSTILE, b"png")]),
        Markup("<p>{}</p>").format(HOSTILE),
        HOSTILE,
    ]
    write_page(tmp_path / "page.html", HOSTILE, parts)
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert page.count(ESCAPED) == 9
    assert f"<table><tr><th>{ESCAPED}</th></tr><tr><td>{ESCAPED}</td></tr><tr class='marked'><td>" in page
    assert "data:image/png;base64,cG5n" in page
