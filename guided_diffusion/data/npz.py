"""Arrays in npz files, read a few rows at a time: a batch of 50,000 images does not fit into memory everywhere."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from guided_diffusion.data.shards import DAMAGED_FILE_ERRORS

_ROWS_PER_READ = 64


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
    if fortran_order:
        raise ValueError(f"{path} holds {name} in Fortran order, which cannot be streamed; save it again in C order")
    return shape, dtype


def npy_rows(path: Path, name: str, *, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
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


def _read_header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(member)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"unknown npy version {version}")
    return readers[version](member)
