"""Index of a data set: the headers of its images, kept in a cache folder for the next start.

    $XDG_CACHE_HOME/guided-diffusion/data/KEY.npz      KEY: of the place of the images; ~/.cache without the variable
        text, lengths   of all names, as `PackedNames` has them
        rows            ROW of each image
        modes           Pillow's modes, which rows count from 0, "" for a header that is not known
        version         of this layout and of Pillow, which decides what modes there are

A header is taken from the index only where the image's name and state (`IndexedImages.states`) are those of the time
when it was read. Labels and settings are no part of it.
"""

import logging
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from ..files import SETTLED_NS, atomic_write, cache_folder
from .formats.npz import DAMAGED_FILE_ERRORS, opened_npz
from .formats.storage import EncodedImages, IndexedImages, encoded_names

_logger = logging.getLogger(__name__)

FEWEST = 1_000  # images of a set that is worth an index
VERSION = f"1, Pillow {PIL.__version__}"
ROW = np.dtype(
    [("state", "<i8", 3), ("width", "<i4"), ("height", "<i4"), ("mode", "<i4"), ("turned", "<i2"), ("animated", "<i2")]
)  # aligned, and without a byte that is not set
SAMPLED, MOST_SECONDS = 64, 10.0
"""One in SAMPLED states is compared where comparing all would take longer than MOST_SECONDS."""


@dataclass(frozen=True, eq=False)
class ImageIndex:
    """Headers of all images, as far as they are known."""

    files: EncodedImages
    rows: NDArray[Any]
    """(N,) `ROW`; mode 0, and 0 in all but the state, where the header has to be read."""
    modes: list[str]
    """Pillow's modes by number; 0 is none."""
    kept: bytes = b""
    """The rows in the index's file, if they are of just these images."""

    def look_at(self, indices: NDArray[np.int64]) -> bool:
        """Enter the present state of images whose headers are read next or known; forget these headers where it is
        another. True if one is forgotten."""
        if not isinstance(self.files, IndexedImages):
            return False
        states = self.files.states(indices)
        changed = indices[(states != self.rows["state"][indices]).any(axis=1)]
        was_known = bool(self.rows["mode"][changed].any())
        self.rows[changed] = np.zeros((), ROW)
        self.rows["state"][indices] = states
        return was_known

    def enter(self, index: int, mode: str, size: tuple[int, int], *, turned: bool, animated: bool) -> None:
        """Enter the header of an image, whose state was looked at before."""
        if mode not in self.modes:
            self.modes.append(mode)
        self.rows[index] = (self.rows["state"][index], *size, self.modes.index(mode), turned, animated)


@contextmanager
def opened_index(files: IndexedImages, path: Path) -> Iterator[ImageIndex]:
    """The index of the images at a path, true to their present state, and kept at the end, also if that is an error.

    Compared are all names and, of images that the index knows, the states: all, or on slow disks a sample, and all if
    that differs.
    """
    started, place = time.time_ns(), _place(path, len(files.names))
    stored = None if place is None else _stored(place, files, path)
    index = stored or ImageIndex(files, np.zeros(len(files.names), ROW), [""])
    begun, first = time.monotonic(), random.Random().randrange(SAMPLED)  # other files at every start
    changed = index.look_at(np.arange(first, len(index.rows), SAMPLED))
    if changed or (time.monotonic() - begun) * SAMPLED < MOST_SECONDS:
        index.look_at(np.flatnonzero(index.rows["mode"]))
    try:
        yield index
    finally:
        if place is not None and index.rows.tobytes() != index.kept:
            rows, states = index.rows.copy(), index.rows["state"]
            # A further change within one tick of the file system's clock would not show.
            is_new = (states > started - SETTLED_NS) & (states < time.time_ns() + SETTLED_NS)
            rows[(is_new | (states < 0)).any(axis=1)] = np.zeros((), ROW)
            if rows.tobytes() != index.kept:
                _write(place, path, index, rows)


def _place(path: Path, count: int) -> Path | None:
    """The file of the index; None for small sets, and without a home."""
    folder = cache_folder()
    if count < FEWEST or folder is None:
        return None
    key = sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    return folder / "data" / f"{key}.npz"


def _stored(place: Path, files: IndexedImages, path: Path) -> ImageIndex | None:
    """The index in a file, its rows in the order of these images; None where there is none of this version."""
    try:
        with opened_npz(place) as arrays:
            if arrays["version"].item() != VERSION:
                return None
            text, lengths, rows, modes = (arrays[name] for name in ("text", "lengths", "rows", "modes"))
            fits = rows.dtype == ROW and rows.shape == lengths.shape and len(text) == lengths.sum()
            if not fits or rows["mode"].max(initial=0) >= len(modes):
                raise ValueError("its arrays do not fit each other")
    except FileNotFoundError:
        return None
    except (OSError, *DAMAGED_FILE_ERRORS) as error:
        _logger.warning("%s, the index of %s, cannot be read (%s) and is made anew", place, path, error)
        return None
    if text.tobytes() == files.names.text and np.array_equal(lengths, files.names.lengths):
        return ImageIndex(files, rows, modes.tolist(), kept=rows.tobytes())
    row_of = {name: row for row, name in enumerate(encoded_names(text.tobytes(), lengths))}
    found = np.array([row_of.get(name, -1) for name in encoded_names(files.names.text, files.names.lengths)])
    present = np.zeros(len(found), ROW)
    present[found >= 0] = rows[found[found >= 0]]
    return ImageIndex(files, present, modes.tolist())


def _write(place: Path, path: Path, index: ImageIndex, rows: NDArray[Any]) -> None:
    assert isinstance(index.files, IndexedImages)
    text, lengths = np.frombuffer(index.files.names.text, np.uint8), index.files.names.lengths
    try:
        with atomic_write(place) as file:
            np.savez(file, version=VERSION, text=text, lengths=lengths, rows=rows, modes=index.modes)
    except OSError as error:
        _logger.warning(
            "the headers of %s are read again at the next start: their index cannot be kept in %s (%s); "
            "XDG_CACHE_HOME=FOLDER moves it", path, place.parent, error.strerror or error,
        )  # fmt: skip
