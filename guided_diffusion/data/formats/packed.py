"""Images cropped once and kept as one array of pixels, so that a training never waits for a decoder.

    DIR/images.npy    uint8 (N, H, W, C), C order
    DIR/labels.npy    int64 (N,)
    DIR/dataset.json  what they are; written last, so that a directory which has it is whole

`preparation.py` makes such a directory. Here it is a storage like any other: each image is handed out as a PNM, a
format that is a short header before the raw pixels, so that everything behind it (modes, crops, mirrors) is the same.
"""

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..crops import CHANNELS
from ..storage import LabelledImages

IMAGES = "images.npy"
LABELS = "labels.npy"
RECORD = "dataset.json"
PARTIAL = "images.npy.partial"
FORMAT = 1

_PNM_MAGIC = {1: b"P5", 3: b"P6"}


class PackedImages:
    """Images of one shape in a .npy file."""

    def __init__(self, root: Path, *, shape: tuple[int, int, int, int], offset: int) -> None:
        """shape: (N, H, W, C); offset: of the first pixel in the file, bytes."""
        self.root = root
        self._count, height, width, channels = shape
        self._pnm_header = b"%s\n%d %d\n255\n" % (_PNM_MAGIC[channels], width, height)
        self._bytes_each = height * width * channels
        self._offset = offset

    def __len__(self) -> int:
        return self._count

    def path(self, index: int) -> Path:
        return self.root / IMAGES / str(index)

    def open(self, index: int) -> IO[bytes]:
        """The image as a PNM."""
        with (self.root / IMAGES).open("rb", buffering=0) as file:
            file.seek(self._offset + index * self._bytes_each)
            return io.BytesIO(self._pnm_header + file.read(self._bytes_each))


def is_packed(directory: Path) -> bool:
    """Whether a directory holds packed images, or the beginning of some."""
    whole = all((directory / name).is_file() for name in (IMAGES, RECORD))
    return whole or (directory / PARTIAL).is_file()


def open_packed(directory: Path) -> LabelledImages:
    """The images of a directory that `preparation.py` made, as large as they were cropped.

    A training of that size sees the stored pixels; one of another size resizes them by its crop, and a random crop cuts
    from the stored squares, of which it has no pixels to spare.

    Raises:
        ValueError: an unfinished or damaged directory.
    """
    record = read_record(directory)
    shape, offset = _array_header(directory / IMAGES)
    labels = np.load(directory / LABELS, allow_pickle=False)
    expected = (record["count"], record["size"], record["size"], CHANNELS[record["mode"]])
    if shape != expected or labels.shape != shape[:1]:
        raise ValueError(
            f"{directory} is damaged: {RECORD} tells of images {expected}, {IMAGES} holds {shape} and {LABELS} "
            f"{labels.shape}; prepare it again"
        )
    storage = PackedImages(directory, shape=expected, offset=offset)
    return LabelledImages(storage=storage, labels=labels, class_names=tuple(record["class_names"]), mode=record["mode"])


def read_record(directory: Path) -> Mapping[str, Any]:
    """What dataset.json says.

    Raises:
        ValueError: there is none, or none of this format.
    """
    path = directory / RECORD
    if not path.is_file():
        raise ValueError(f"{directory} is not prepared to its end; the same command of prepare_data.py goes on")
    try:
        record = json.loads(path.read_text())
        found = record["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); prepare the data again") from error
    if found != FORMAT:
        raise ValueError(f"{path} is of format {found}; this version reads format {FORMAT}: prepare the data again")
    return record


def _array_header(path: Path) -> tuple[tuple[int, ...], int]:
    """Shape, and offset of the data; a file that is shorter or longer than its header says is refused."""
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, fortran_order, dtype = read(file)
        except (ValueError, KeyError, EOFError) as error:
            raise ValueError(f"{path} is no array of numpy's ({error!r}); prepare the data again") from error
        offset = file.tell()
    size = path.stat().st_size
    if fortran_order or dtype != np.uint8 or size != offset + math.prod(shape):
        raise ValueError(f"{path} is damaged: {size:,} bytes for {dtype} {shape}; copy or prepare the data again")
    return shape, offset
