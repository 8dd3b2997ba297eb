"""Formats in which images are stored: the table of all of them, and recognising the one at a path.

A format is a module with `recognise(path)`, which looks at names and never tries to read, and
`open_stored(path, labels)`.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from ...distributed import on_main_process
from ..config import Labels
from . import folder, huggingface, npz, packed, samples, webdataset, zip
from .storage import StoredImages

T = TypeVar("T")


@dataclass(frozen=True)
class Format:
    """One way to store images."""

    described: str
    """For the message that lists all formats."""
    recognise: Callable[[Path], bool]
    """Tells by names alone whether images of this format lie at a path."""
    open_stored: Callable[[Path, Labels | None], StoredImages]
    """Open the images at a path. labels: as `DataConfig.labels`; None takes the labels that there are, if any. Labels
    that are not there, and damaged or unfit files, are a FileNotFoundError or ValueError that names them."""
    is_tree: bool = False
    """True for files in folders, whose labels are a matter of choice."""
    is_at_path: bool = True
    """False for images in a cache of the user's, which processes on several machines need not share."""


FORMATS: Mapping[str, Format] = {
    "huggingface": Format(
        "a Hugging Face dataset (hf:NAME or saved)", huggingface.recognise, huggingface.open_stored, is_at_path=False
    ),
    "zip": Format("a .zip of such a folder", zip.recognise, zip.open_stored, is_tree=True),
    "prepared": Format("prepared images", packed.recognise, packed.open_stored),
    "shards": Format("a directory of samples (not for training)", samples.recognise, samples.open_stored),
    "npz": Format("an .npz batch (not for training)", npz.recognise, npz.open_stored),
    "webdataset": Format("WebDataset .tar shards", webdataset.recognise, webdataset.open_stored),
    "folder": Format("a folder of images (one folder per class)", folder.recognise, folder.open_stored, is_tree=True),
}
"""In the order in which they are tried; protocols of evaluations record the names."""

EXPECTED = ", or ".join(entry.described for entry in reversed(FORMATS.values()))


def opened_once(path: Path, opened: Callable[[], T]) -> T:
    """The images at a path as the main process opens them, or the error that it meets, on all processes of a run."""
    at_path = next((entry.is_at_path for entry in FORMATS.values() if entry.recognise(path)), True)
    # To ask for processes where there is one would import accelerate, which takes a second.
    if os.environ.get("WORLD_SIZE", "1") == "1" or not at_path:
        return opened()

    def attempt() -> T | Exception:
        try:
            return opened()
        except (ValueError, OSError, ImportError) as failure:
            return failure

    images = on_main_process(attempt)
    if isinstance(images, Exception):
        raise images
    return images


def open_stored(path: Path, labels: Labels | None, *, only_of_trees: bool = False) -> StoredImages:
    """The images at a path, of whichever format.

    only_of_trees: `labels` is meant for files in folders; images of other formats have their own.

    Raises:
        FileNotFoundError: nothing at the path, or no such labels.
        ValueError: a file of no known format, or a damaged or unfit one.
    """
    for name, entry in FORMATS.items():
        if entry.recognise(path):
            chosen = None if only_of_trees and not entry.is_tree else labels
            return replace(entry.open_stored(path, chosen), format=name)
    if not path.exists():
        raise FileNotFoundError(f"there is nothing at {path}; expected {EXPECTED}")
    raise ValueError(f"{path} is a file of no known format; expected {EXPECTED}. Other archives have to be unpacked")
