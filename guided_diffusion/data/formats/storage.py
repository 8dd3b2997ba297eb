"""The record that every format opens to: where pixels come from, and what is known of them beforehand."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..config import Mode

NO_LABEL = -1
_PACE = 64
"""Names between two whose places are kept."""
CENTER_CROP = "published centre crop to {size} px (box halvings, bicubic) where the size differs"
"""The resizing of pictures, as protocols of evaluations record it."""


class EncodedImages(Protocol):
    """Encoded images in a fixed order. It travels to worker processes, so it pickles and holds no open file.

    Every read opens the file that it needs: an archive costs what a folder does, one open per image, and forked
    processes share no position in a file.
    """

    def path(self, index: int) -> Path:
        """The place of an image, for messages: below the path that the user gave, within an archive maybe."""
        ...

    def open(self, index: int) -> IO[bytes]:
        """The image's bytes; OSError if the storage failed. A damaged archive may raise anything else."""
        ...


@runtime_checkable
class IndexedImages(EncodedImages, Protocol):
    """Encoded images whose headers an index on disk keeps."""

    @property
    def names(self) -> "PackedNames": ...

    def states(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n, 3): numbers of each image of which one changes with its content, the first its bytes; others may be times
        in nanoseconds. -1 for one that cannot be found."""
        ...


@runtime_checkable
class ImageArrays(Protocol):
    """Decoded images, all of `shape` (H, W, C), in a fixed order; they are read as a stream and never resized."""

    @property
    def shape(self) -> tuple[int, int, int]: ...

    def stream(self, indices: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """The images (n, H, W, C) of ascending indices, in pieces of whatever length suits the storage."""
        ...


@dataclass(frozen=True, kw_only=True)
class StoredImages:
    """Images as a format holds them, with the class number of each."""

    images: EncodedImages | ImageArrays
    labels: NDArray[np.int64]
    """(N,) class numbers, -1 for an image without one."""
    class_names: tuple[str, ...] = ()
    """Names of the class numbers; empty where the storage does not tell."""
    mode: Mode | None = None
    """The common mode, where it is known without reading the header of each image."""
    manifest: Mapping[str, Any] | None = None
    """The manifest of samples that this library made."""
    resize: str = ""
    """The resizing that the stored pixels went through, in words."""
    format: str = ""
    """The format's name in the table of formats, which enters it."""
    kinds: Mapping[str, int] = field(default_factory=dict[str, int])
    """Number of images of each file name extension."""
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    """Names of the files that are no images, by extension, and of system files and folders, by name."""


class PackedNames:
    """Names in one piece of memory: reference counts would, bit by bit, copy a million strings into every process."""

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [*map(os.fsencode, names)]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        self.text = b"".join(encoded)
        """All names, one after the other, as the operating system has them."""
        self.lengths = narrow(lengths)
        """(N,) bytes of each name."""
        self._starts = narrow((np.cumsum(lengths) - lengths)[::_PACE])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> str:
        pace, rest = divmod(index, _PACE)
        start = int(self._starts[pace]) + int(self.lengths[index - rest : index].sum())
        return os.fsdecode(self.text[start : start + int(self.lengths[index])])


def encoded_names(text: bytes, lengths: NDArray[np.integer], indices: Any = np.s_[:]) -> list[bytes]:
    """Names of these lengths cut from their text, as `PackedNames` keeps them, or those at some indices."""
    ends = np.cumsum(lengths, dtype=np.int64)[indices]
    starts = ends - lengths[indices]
    return [text[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def narrow(numbers: NDArray[np.integer]) -> NDArray[np.unsignedinteger]:
    """Whole numbers, negative ones as 0, in the smallest type that holds them all."""
    return numbers.clip(0).astype(np.min_scalar_type(numbers.max(initial=0)))
