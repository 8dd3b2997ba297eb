"""Arrays in npz files, read and written a few rows at a time: 50,000 images do not fit into memory everywhere."""

import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

_ROWS_PER_READ = 64

# What numpy and zipfile raise, between them, on a file that is cut short, overwritten or not an npz at all. OSError is
# not among them: a missing permission or a failing disk is not the file's fault, and says so itself.
DAMAGED_FILE_ERRORS = (
    ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError,
)  # fmt: skip


def npz_members(path: Path) -> frozenset[str]:
    """Names of the arrays in an npz file. Raises ValueError, naming the file, if it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return frozenset(name.removesuffix(".npy") for name in archive.namelist())
    except DAMAGED_FILE_ERRORS as error:
        raise ValueError(f"{path} is not a readable npz file ({error}); make or fetch it again") from error


def npy_header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array in an npz file, from its first bytes.

    Raises ValueError, naming the file, if it is damaged or the array cannot be read row by row.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
            shape, fortran_order, dtype = _read_header(member)
    except DAMAGED_FILE_ERRORS as error:
        raise ValueError(f"{path} is damaged: {name} cannot be read ({error}); make or fetch it again") from error
    if dtype.hasobject:
        raise ValueError(
            f"{path} holds {name} as pickled Python objects, which are never loaded; save an array of numbers"
        )
    if fortran_order:
        raise ValueError(f"{path} holds {name} in Fortran order, which cannot be streamed; save it again in C order")
    return shape, dtype


def npy_rows(path: Path, name: str, *, start: int, stop: int) -> Iterator[tuple[int, NDArray]]:
    """The rows [start, stop) of an array in an npz file, a few at a time, each piece with the number of its first row.

    Raises ValueError, naming the file, if it is damaged.
    """
    # numpy.load would hold the whole array; a zip member is a file that can be read row by row, compressed or not.
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
            shape, _, dtype = _read_header(member)
            row_bytes = int(np.prod(shape[1:])) * dtype.itemsize
            member.seek(start * row_bytes, 1)
            for first in range(start, stop, _ROWS_PER_READ):
                rows = min(_ROWS_PER_READ, stop - first)
                content = member.read(rows * row_bytes)
                if len(content) != rows * row_bytes:
                    raise EOFError(f"it ends within image {first + len(content) // row_bytes}")
                yield first, np.frombuffer(content, dtype).reshape(rows, *shape[1:])
    except DAMAGED_FILE_ERRORS as error:
        raise ValueError(f"{path} is damaged: {name} cannot be read ({error}); make or fetch it again") from error


def write_array(archive: zipfile.ZipFile, name: str, array: NDArray) -> None:
    """Add an array to an npz that is being written, uncompressed as `numpy.savez` would."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, array, allow_pickle=False)


def write_rows(
    archive: zipfile.ZipFile, name: str, pieces: Iterable[NDArray[np.uint8]], *, shape: tuple[int, ...]
) -> None:
    """Add a uint8 array of `shape` to an npz that is being written, from consecutive pieces of its rows.

    Raises ValueError if they do not make up the shape.
    """
    description = {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8))}
    written = 0
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, description)
        for piece in pieces:
            if piece.dtype != np.uint8 or piece.shape[1:] != shape[1:]:
                raise ValueError(f"{name} is to hold rows of uint8 {shape[1:]}, got {piece.dtype} {piece.shape[1:]}")
            member.write(np.ascontiguousarray(piece).data)
            written += len(piece)
    if written != shape[0]:
        raise ValueError(f"{name} is to hold {shape[0]} rows, got {written}")


def _read_header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(member)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"unknown npy version {version}")
    return readers[version](member)
