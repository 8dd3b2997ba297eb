"""The documents' links lead somewhere, and the commands in them have the options that they show."""

import re
from collections.abc import Iterator
from pathlib import Path

import tiny
from script_options import OPTIONS

DOCUMENTS = [*tiny.REPOSITORY.glob("*.md"), *(tiny.REPOSITORY / "docs").rglob("*.md")]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
COMMAND = re.compile(r"(?:guided-diffusion |scripts/)([a-z_]+)")
STARTED = re.compile(r"python |torchrun |guided-diffusion ")
OPTION = re.compile(r"(?<!\S)--([\w.]+)")
GENERAL = {"config", "help"}
LAUNCHERS = {"multi_gpu", "num_processes"}


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", document.read_text()), re.MULTILINE)
    plain = [re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def dead_links(document: Path, text: str) -> Iterator[str]:
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", text)):
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if "://" not in link and (not target.exists() or (anchor and anchor not in anchors(target))):
            yield link


def unknown_options(text: str, known: set[str]) -> Iterator[str]:
    """Options that the line's command does not have; without a command, those that no program has."""
    blocks = [block.replace("\\\n", " ") for language, block in FENCED.findall(text) if language != "python"]
    lines = [line for block in blocks for line in re.split(r"\n|&&|;|\s#", block) if STARTED.search(line)]
    for line in [*lines, *INLINE.findall(FENCED.sub("", text))]:
        command = COMMAND.search(line)
        options = {*OPTIONS[command[1]], *GENERAL} if command and command[1] in OPTIONS else known
        shown = OPTION.findall(line, command.end() if command else 0)
        yield from (f"--{option} in {line}" for option in shown if option not in options)


def test_links_lead_somewhere_and_commands_have_the_options_that_documents_show():
    programs = [*(tiny.REPOSITORY / "benchmarks").glob("*.py"), *(tiny.REPOSITORY / "tests").glob("*.py")]
    own = {name for file in programs for name in re.findall(r"^    (\w+):|\"--(\w+)\"", file.read_text(), re.MULTILINE)}
    known = {*GENERAL, *LAUNCHERS, *(name for pair in own for name in pair)}.union(*OPTIONS.values())
    found = {}
    for document in DOCUMENTS:
        text = document.read_text()
        options = [] if document.name in ("CHANGELOG.md", "errors.md") else unknown_options(text, known)
        if faults := [*dead_links(document, text), *options]:
            found[document.name] = faults
    assert found == {}
    assert list(dead_links(DOCUMENTS[0], "[a](README.md#nowhere) [b](nothing.md)")) == [
        "README.md#nowhere",
        "nothing.md",
    ]
    assert list(unknown_options("```\npython scripts/evaluate.py --gone 1\n```", known)) != []
