"""What a dataset needs of whatever holds its images: encoded images in a fixed order, and their labels.

The kinds are `trees.py` (folders and zips), `webdataset.py` (tar shards), `huggingface.py` and `packing.py` (prepared
pixels); `kinds.py` tells which one lies at a path.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Protocol

import numpy as np
from numpy.typing import NDArray


class Storage(Protocol):
    """Encoded images in a fixed order. It travels to worker processes, so it pickles and holds no open file.

    Every read opens the file that it needs: an archive costs what a folder does, one open per image, and forked
    processes share no position in a file.
    """

    @property
    def root(self) -> Path | None:
        """The folder or file without which there are no images; None if a library keeps them somewhere."""
        ...

    def __len__(self) -> int: ...

    def path(self, index: int) -> Path:
        """Where an image lies, for messages: below the path that the user gave, and within an archive maybe."""
        ...

    def open(self, index: int) -> IO[bytes]:
        """The image's bytes.

        Raises OSError where the storage fails, and anything else for a damaged archive.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """A storage, the class number of each of its images (N,), and the names of the classes; without names, each label
    is -1."""

    storage: Storage
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    mode: Literal["L", "RGB"] | None = None
    """Of all images, where that is known without a look at each."""


class PackedNames:
    """Names in one array of bytes: reference counts would, bit by bit, copy a million strings into every process."""

    def __init__(self, names: Iterable[str]) -> None:
        self._packed = np.array([os.fsencode(name) for name in names], dtype=np.bytes_)

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, index: int) -> str:
        return os.fsdecode(self._packed[index])
