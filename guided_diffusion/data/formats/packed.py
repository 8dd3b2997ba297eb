"""Images cropped once and kept as one array of pixels, so that a training never waits for a decoder.

    DIR/images.npy     uint8 (N, H, W, C), C order
    DIR/labels.npy     int64 (N,)
    DIR/checksums.npy  uint32 (N,), CRC-32 of each image's bytes; absent from old directories
    DIR/dataset.json   their description; written last, so that a directory which has it is whole

An image is compared with its checksum whenever it is read, at 2.8 GB/s: to hash all of ImageNet at 64 pixels at every
start would take 11 s. It is handed out as a PNM, a format that is a short header before the raw pixels, so that
everything behind it (modes, crops, mirrors) is as of any encoded image.
"""

import errno
import io
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ...files import file_sha256
from ...records import DamagedRecordError, Fields, check_record, read_record
from ..config import CHANNELS, Labels, Mode
from ..values import preprocessing
from .npz import npy_header, refuse_damage
from .storage import CENTER_CROP, StoredImages

IMAGES = "images.npy"
LABELS = "labels.npy"
CHECKSUMS = "checksums.npy"
RECORD = "dataset.json"
PARTIAL = "images.npy.partial"
FORMAT = 1
REMEDY = "the same command of prepare_data.py makes it anew"

_FIELDS: Fields = {
    "count": int,
    "size": int,
    "mode": Mode,
    "class_names": list[str],
    "window": list[float] | None,
    "turned": int | None,
    "images_sha256": str | None,
    "labels_sha256": str | None,
}
_PNM_MAGIC = {1: b"P5", 3: b"P6", 4: b"PyRGBA"}


@dataclass(frozen=True, kw_only=True)
class PackedImages:
    """Square images in a .npy file."""

    root: Path
    offset: int
    """Of the first pixel in the file, bytes."""
    checksum_offset: int | None
    """Of the first checksum in its file, bytes; None: there are none."""
    size: int
    """Side of the images, pixels."""
    channels: int

    def path(self, index: int) -> Path:
        return self.root / IMAGES / str(index)

    def open(self, index: int) -> IO[bytes]:
        """The image as a PNM.

        Raises:
            OSError: it is not the image that was prepared.
        """
        header = b"%s\n%d %d\n255\n" % (_PNM_MAGIC[self.channels], self.size, self.size)
        num_bytes = self.size * self.size * self.channels
        pixels = _bytes_at(self.root / IMAGES, self.offset + index * num_bytes, num_bytes)
        if self.checksum_offset is not None:
            expected = _bytes_at(self.root / CHECKSUMS, self.checksum_offset + index * 4, 4)
            if zlib.crc32(pixels) != int.from_bytes(expected, "little"):
                found = f"it differs from the image that was prepared; {REMEDY}"
                raise OSError(errno.EIO, found, str(self.path(index)))
        return io.BytesIO(header + pixels)


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
    record = read_dataset(path)
    shape, offset = _array_header(path / IMAGES, np.uint8)
    mode, size, names = record["mode"], record["size"], record["class_names"]
    expected = (record["count"], size, size, CHANNELS[mode])
    if shape != expected:
        raise ValueError(
            f"{path} is damaged: {RECORD} tells of images {expected}, {IMAGES} holds {shape}; prepare it again"
        )
    has_checksums = record["labels_sha256"] is not None  # both are absent from old directories
    checksum_offset = _vector_offset(path / CHECKSUMS, np.uint32, shape[0]) if has_checksums else None
    return StoredImages(
        images=PackedImages(
            root=path, offset=offset, checksum_offset=checksum_offset, size=size, channels=CHANNELS[mode]
        ),
        labels=_labels(path / LABELS, count=shape[0], num_classes=len(names), sha256=record["labels_sha256"]),
        class_names=tuple(names),
        mode=mode,
        resize=preprocessing(
            f"{CENTER_CROP.format(size=size)}, when prepared", window=record["window"], turned=record["turned"] or 0
        ),
    )


def read_dataset(directory: Path) -> Mapping[str, Any]:
    """The content of dataset.json, of this format."""
    path = directory / RECORD
    if not path.is_file():
        raise ValueError(f"{directory} is not prepared to its end; the same command of prepare_data.py goes on")
    try:
        record = read_record(path, {"format": int})
        if record["format"] != FORMAT:
            raise ValueError(
                f"{path} is of format {record['format']}; this version reads format {FORMAT}: prepare the data again"
            )
        return check_record(record, _FIELDS, source=path)
    except DamagedRecordError as error:
        raise DamagedRecordError(f"{error}; {REMEDY}") from None


def _labels(path: Path, *, count: int, num_classes: int, sha256: str | None) -> NDArray[np.int64]:
    """The labels of prepared images; those that are not classes, or not what was written, are refused."""
    _vector_offset(path, np.int64, count)
    numbers = np.load(path, allow_pickle=False)
    wrong = numbers[(numbers < 0) | (numbers >= num_classes)]
    if wrong.size or sha256 not in (None, file_sha256(path)):
        found = f"label {wrong[0]} of {num_classes} classes" if wrong.size else "other labels than were prepared"
        raise ValueError(f"{path} is damaged: it holds {found}; {REMEDY}")
    return numbers


def _vector_offset(path: Path, dtype: type[np.generic], count: int) -> int:
    """Offset of the data of an array (count,)."""
    shape, offset = _array_header(path, dtype)
    if shape != (count,):
        raise ValueError(f"{path} is damaged: it holds {shape} for {count} images; {REMEDY}")
    return offset


def _array_header(path: Path, dtype: type[np.generic]) -> tuple[tuple[int, ...], int]:
    """Shape, and offset of the data; a file that is shorter or longer than its header says is refused."""
    if not path.is_file():
        raise ValueError(f"{path} is missing; {REMEDY}")
    with path.open("rb") as file, refuse_damage(f"{path} is no array of numpy's", remedy="prepare the data again"):
        shape, fortran_order, found = npy_header(file)
        offset = file.tell()
    size = path.stat().st_size
    if fortran_order or found != dtype or size != offset + math.prod(shape) * found.itemsize:
        raise ValueError(f"{path} is damaged: {size:,} bytes for {found} {shape}; copy or prepare the data again")
    return shape, offset


def _bytes_at(path: Path, offset: int, count: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        return file.read(count)
