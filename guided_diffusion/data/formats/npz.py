"""Published batches of images: an npz of `arr_0` and maybe labels `arr_1`; and arrays in npz files in general.

Arrays are read and written a few rows at a time: 50,000 images do not fit into memory everywhere.
"""

import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ..config import Labels
from .storage import NO_LABEL, StoredImages

_ROWS_PER_READ = 64
_MOST_DEFLATED = 1032
"""Bytes that a byte of a deflated member can stand for."""
_LOOKED_AT = 16
"""Images whose values say which range the others have, too."""

# Errors of numpy and zipfile about a file that is cut short, overwritten or not an npz at all. OSError is
# not among them: a missing permission or a failing disk is not the file's fault, and says so itself.
DAMAGED_FILE_ERRORS = (
    ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError,
)  # fmt: skip


@dataclass(frozen=True)
class BatchImages:
    """The images of a batch, without labels."""

    path: Path
    shape: tuple[int, int, int]

    def stream(self, indices: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        for first, images in _rows(self.path, start=indices[0], stop=indices[-1] + 1):
            yield images[rows_within(indices, first=first, length=len(images))]


def recognise(path: Path) -> bool:
    """A file NAME.npz."""
    return path.suffix == ".npz" and path.is_file()


def open_stored(path: Path, labels: Labels | None) -> StoredImages:
    """A batch, whose labels are its own."""
    num_images, height, width, channels = _stored_shape(path)
    numbers = np.full(num_images, NO_LABEL)
    if "arr_1" in npz_members(path):
        found, dtype = _header(path, "arr_1")
        if found != (num_images,) or not np.issubdtype(dtype, np.integer):
            raise ValueError(f"{path} must hold arr_1 as {num_images} integer labels, got {dtype} {found}")
        with refuse_damage(f"{path} is damaged: arr_1 cannot be read"), opened_npz(path) as arrays:
            numbers = arrays["arr_1"].astype(np.int64)
    return StoredImages(images=BatchImages(path, (height, width, channels)), labels=numbers)


def rows_within(indices: Sequence[int], *, first: int, length: int) -> NDArray[np.int64]:
    """Rows of a piece of `length` images, the first of them number `first`, that are among the ascending indices."""
    wanted = np.asarray(indices)
    begin, end = np.searchsorted(wanted, (first, first + length))
    return wanted[begin:end] - first


@contextmanager
def refuse_damage(complaint: str, *, remedy: str = "make or fetch it again") -> Iterator[None]:
    """Turn errors of numpy and zipfile about a file into a ValueError that says what to do."""
    try:
        yield
    except DAMAGED_FILE_ERRORS as error:
        raise ValueError(f"{complaint} ({error}); {remedy}") from error


def npz_members(path: Path) -> frozenset[str]:
    """Names of the arrays in an npz file."""
    with refuse_damage(f"{path} is not a readable npz file"), zipfile.ZipFile(path) as archive:
        return frozenset(name.removesuffix(".npy") for name in archive.namelist())


@contextmanager
def opened_npz(path: Path) -> Iterator[Mapping[str, NDArray]]:
    """The arrays of an npz file by name, each read when it is asked for.

    Opening and reading raise `DAMAGED_FILE_ERRORS`; an array that is shorter than its header says is found before
    memory is taken for it.
    """
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                _checked_header(file, member)
    with np.load(path, allow_pickle=False) as arrays:
        yield arrays


def _checked_header(file: IO[bytes], member: zipfile.ZipInfo) -> tuple[tuple[int, ...], bool, np.dtype]:
    """As `npy_header`, of a member of an npz.

    Raises:
        EOFError: the member is too short for the array.
    """
    shape, fortran_order, dtype = npy_header(file)
    row_bytes = math.prod(shape[1:]) * dtype.itemsize
    # A member's length in the zip's directory is a claim as well.
    longest = (member.compress_size + 1) * _MOST_DEFLATED if member.compress_type == zipfile.ZIP_DEFLATED else math.inf
    present = min(member.file_size, longest) - file.tell()
    if not dtype.hasobject and present < math.prod(shape) * dtype.itemsize:
        raise EOFError(f"it ends within {'image' if len(shape) > 2 else 'row'} {present // row_bytes:,} of {shape}")
    return shape, fortran_order, dtype


@contextmanager
def _opened(path: Path, name: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], bool, np.dtype]]:
    """An array's file within an npz file, at its first element, and what `npy_header` tells."""
    damage = f"{path} is damaged: {name} cannot be read"
    with refuse_damage(damage), zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
        yield member, *_checked_header(member, archive.getinfo(f"{name}.npy"))


def _header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array in an npz file, from its first bytes."""
    with _opened(path, name) as (_, shape, fortran_order, dtype):
        pass
    if dtype.hasobject:
        raise ValueError(
            f"{path} holds {name} as pickled Python objects, which are never loaded; save an array of numbers"
        )
    if fortran_order:
        raise ValueError(f"{path} holds {name} in Fortran order, which cannot be streamed; save it again in C order")
    return shape, dtype


def _rows(path: Path, *, start: int, stop: int) -> Iterator[tuple[int, NDArray]]:
    """The images [start, stop) of a batch, a few at a time, each piece with the number of its first image.

    numpy.load would hold the whole array; a zip member is a file that can be read row by row, compressed or not.
    """
    with _opened(path, "arr_0") as (member, shape, _, dtype):
        row_bytes = int(np.prod(shape[1:])) * dtype.itemsize
        member.seek(start * row_bytes, 1)
        for first in range(start, stop, _ROWS_PER_READ):
            rows = min(_ROWS_PER_READ, stop - first)
            content = member.read(rows * row_bytes)
            if len(content) != rows * row_bytes:
                raise EOFError(f"it ends within image {first + len(content) // row_bytes}")
            yield first, np.frombuffer(content, dtype).reshape(rows, *shape[1:])


def npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, Fortran order and type of an array, of which the file is left at the first element."""
    first = np.lib.format.read_magic(file) == (1, 0)
    # Version 3 differs from 2 in the names of fields, which an array of numbers has not.
    return np.lib.format.read_array_header_1_0(file) if first else np.lib.format.read_array_header_2_0(file)


def write_npy_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    """Write the header of a uint8 array of a shape, behind which its bytes are to follow in C order."""
    description = {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8))}
    np.lib.format.write_array_header_1_0(file, description)


def write_array(archive: zipfile.ZipFile, name: str, array: NDArray) -> None:
    """Add an array to an npz that is being written, uncompressed as `numpy.savez` would."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, array, allow_pickle=False)


def write_rows(
    archive: zipfile.ZipFile, name: str, pieces: Iterable[NDArray[np.uint8]], *, shape: tuple[int, ...]
) -> None:
    """Add a uint8 array of `shape` to an npz that is being written, from consecutive pieces of its rows.

    Raises:
        ValueError: they do not make up the shape.
    """
    written = 0
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        write_npy_header(member, shape)
        for piece in pieces:
            if piece.dtype != np.uint8 or piece.shape[1:] != shape[1:]:
                raise ValueError(f"{name} is to hold rows of uint8 {shape[1:]}, got {piece.dtype} {piece.shape[1:]}")
            member.write(np.ascontiguousarray(piece).data)
            written += len(piece)
    if written != shape[0]:
        raise ValueError(f"{name} is to hold {shape[0]} rows, got {written}")


def _stored_shape(path: Path) -> tuple[int, ...]:
    """Shape (N, H, W, C) of the images of a batch, from its header."""
    members = npz_members(path)
    if "arr_0" not in members:
        raise ValueError(
            f"{path} holds no images: expected the array arr_0, found {', '.join(sorted(members)) or 'nothing'}"
        )
    shape, dtype = _header(path, "arr_0")
    if len(shape) == 4 and shape[1] in (1, 3, 4) and shape[3] not in (1, 3, 4):
        raise ValueError(
            f"{path} holds arr_0 with its axes in the order (N, C, H, W), {shape}; expected (N, H, W, C): save "
            f"arr_0.transpose(0, 2, 3, 1)"
        )
    if len(shape) != 4 or shape[3] not in (1, 3, 4):
        raise ValueError(
            f"{path} must hold arr_0 as uint8 (N, H, W, C) with 1, 3 or 4 channels in the last place, got {dtype} "
            f"{shape}"
        )
    if shape[0] == 0:
        raise ValueError(f"{path} holds no images: arr_0 is empty")
    if dtype != np.uint8:
        raise ValueError(f"{path} must hold arr_0 as uint8 0..255, got {dtype}{_conversion(path, shape[0])}")
    return shape


def _conversion(path: Path, num_images: int) -> str:
    """The range of the first images, and the expression that makes them uint8."""
    _, values = next(_rows(path, start=0, stop=min(num_images, _LOOKED_AT)))
    low, high = values.min(), values.max()
    held = f": its first {len(values)} images hold values from {low:.4g} to {high:.4g}"
    if not np.isfinite([low, high]).all():
        return f"{held}; not all are finite: make them again"
    if -1.5 <= low < 0 and high <= 1.5:
        return f"{held}; if they mean -1..1, save ((arr_0 + 1) * 127.5).clip(0, 255).astype(np.uint8), as published"
    if low >= 0 and high <= 1.5:
        return f"{held}; if they mean 0..1, save (arr_0 * 255).round().clip(0, 255).astype(np.uint8)"
    if low >= 0 and high <= 255:
        return f"{held}; save arr_0.round().astype(np.uint8)"
    return f"{held}, a range that images do not have: bring them to 0..255, then save .round().astype(np.uint8)"
