"""Images cropped once and kept as one array of pixels, so that a training never waits for a decoder.

    DIR/images.npy    uint8 (N, H, W, C), C order
    DIR/labels.npy    int64 (N,)
    DIR/dataset.json  what they are; written last, so that a directory which has it is whole

Each image is handed out as a PNM, a format that is a short header before the raw pixels, so that everything behind it
(modes, crops, mirrors) is as of any encoded image.
"""

import io
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..config import CHANNELS, Labels
from .npz import npy_header, write_npy_header
from .storage import CENTER_CROP, StoredImages

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


def recognise(path: Path) -> bool:
    """A directory that holds packed images, or the beginning of some."""
    whole = all((path / name).is_file() for name in (IMAGES, RECORD))
    return whole or (path / PARTIAL).is_file()


def open_stored(path: Path, labels: Labels | None) -> StoredImages:
    """Prepared images, as large as they were cropped.

    A training of that size sees the stored pixels; one of another size resizes them by its crop, and a random crop cuts
    from the stored squares, of which it has no pixels to spare.
    """
    if labels not in ("folders", None):
        raise ValueError(f"{path} holds prepared images, whose labels are their own; leave out data.labels")
    record = read_record(path)
    shape, offset = _array_header(path / IMAGES)
    numbers = np.load(path / LABELS, allow_pickle=False)
    expected = (record["count"], record["size"], record["size"], CHANNELS[record["mode"]])
    if shape != expected or numbers.shape != shape[:1]:
        raise ValueError(
            f"{path} is damaged: {RECORD} tells of images {expected}, {IMAGES} holds {shape} and {LABELS} "
            f"{numbers.shape}; prepare it again"
        )
    return StoredImages(
        images=PackedImages(path, shape=expected, offset=offset),
        labels=numbers,
        class_names=tuple(record["class_names"]),
        mode=record["mode"],
        resize=f"{CENTER_CROP.format(size=record['size'])}, when prepared",
    )


def read_record(directory: Path) -> Mapping[str, Any]:
    """The content of dataset.json.

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
            shape, fortran_order, dtype = npy_header(file)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} is no array of numpy's ({error!r}); prepare the data again") from error
        offset = file.tell()
    size = path.stat().st_size
    if fortran_order or dtype != np.uint8 or size != offset + math.prod(shape):
        raise ValueError(f"{path} is damaged: {size:,} bytes for {dtype} {shape}; copy or prepare the data again")
    return shape, offset


def write_images(
    directory: Path,
    shape: tuple[int, int, int, int],
    images_from: Callable[[int], Iterator[NDArray[np.uint8]]],
) -> None:
    """Write the images of a directory, or the rest of them, whatever ended an earlier attempt.

    They are appended in order to a partial file, whose length therefore says how far it is.

    shape: (N, H, W, C).
    images_from: pieces (n, H, W, C) of all images from a number on.

    Raises:
        OSError: the disk is full, or fails; the partial file stays.
    """
    partial = directory / PARTIAL
    with partial.open("ab") as file:
        for images in images_from(_whole_images(file, shape)):
            file.write(np.ascontiguousarray(images).data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(directory / IMAGES)


def _whole_images(file: BinaryIO, shape: tuple[int, ...]) -> int:
    """Number of images that an earlier attempt left whole; its part of another is cut off."""
    header = io.BytesIO()
    write_npy_header(header, shape)
    begin, bytes_each = header.tell(), math.prod(shape[1:])
    written = file.seek(0, os.SEEK_END)
    if written < begin:
        file.truncate(0)
        file.write(header.getvalue())
        return 0
    done = (written - begin) // bytes_each
    file.truncate(begin + done * bytes_each)
    return done
