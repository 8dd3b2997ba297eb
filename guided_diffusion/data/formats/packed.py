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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..config import CHANNELS, Labels
from ..values import preprocessing
from .npz import npy_header, refuse_damage
from .storage import CENTER_CROP, StoredImages

IMAGES = "images.npy"
LABELS = "labels.npy"
RECORD = "dataset.json"
PARTIAL = "images.npy.partial"
FORMAT = 1

_PNM_MAGIC = {1: b"P5", 3: b"P6"}


@dataclass(frozen=True, kw_only=True)
class PackedImages:
    """Square images in a .npy file."""

    root: Path
    offset: int
    """Of the first pixel in the file, bytes."""
    size: int
    """Side of the images, pixels."""
    channels: int

    def path(self, index: int) -> Path:
        return self.root / IMAGES / str(index)

    def open(self, index: int) -> IO[bytes]:
        """The image as a PNM."""
        header = b"%s\n%d %d\n255\n" % (_PNM_MAGIC[self.channels], self.size, self.size)
        num_bytes = self.size * self.size * self.channels
        with (self.root / IMAGES).open("rb", buffering=0) as file:
            file.seek(self.offset + index * num_bytes)
            return io.BytesIO(header + file.read(num_bytes))


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
    mode, size = record["mode"], record["size"]
    expected = (record["count"], size, size, CHANNELS[mode])
    if shape != expected or numbers.shape != shape[:1]:
        raise ValueError(
            f"{path} is damaged: {RECORD} tells of images {expected}, {IMAGES} holds {shape} and {LABELS} "
            f"{numbers.shape}; prepare it again"
        )
    return StoredImages(
        images=PackedImages(root=path, offset=offset, size=size, channels=CHANNELS[mode]),
        labels=numbers,
        class_names=tuple(record["class_names"]),
        mode=mode,
        resize=preprocessing(
            f"{CENTER_CROP.format(size=size)}, when prepared",
            window=record.get("window"),
            turned=record.get("turned") or 0,
        ),
    )


def read_record(directory: Path) -> Mapping[str, Any]:
    """The content of dataset.json, of this format."""
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
    with path.open("rb") as file, refuse_damage(f"{path} is no array of numpy's", remedy="prepare the data again"):
        shape, fortran_order, dtype = npy_header(file)
        offset = file.tell()
    size = path.stat().st_size
    if fortran_order or dtype != np.uint8 or size != offset + math.prod(shape):
        raise ValueError(f"{path} is damaged: {size:,} bytes for {dtype} {shape}; copy or prepare the data again")
    return shape, offset
