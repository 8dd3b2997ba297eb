"""The book's snippets, which are doctests: what a chapter prints is what a reader gets."""

import doctest
from pathlib import Path

import pytest

CHAPTERS = [file for file in (Path(__file__).parents[1] / "docs" / "book").glob("*.md") if file.stem != "index"]


@pytest.mark.parametrize("chapter", sorted(CHAPTERS), ids=lambda chapter: chapter.stem)
def test_a_chapters_snippets_print_what_it_says(chapter):
    failed, tried = doctest.testfile(str(chapter), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert tried > 0
    assert failed == 0
