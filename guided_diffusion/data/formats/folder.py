"""Images in a folder."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ...files import open_regular
from ..config import Labels
from .storage import PackedNames, StoredImages, encoded_names
from .tree import folder_tree, tree_labels


@dataclass(frozen=True)
class FolderImages:
    """Files below a directory."""

    root: Path
    names: PackedNames

    def path(self, index: int) -> Path:
        return self.root / self.names[index]

    def open(self, index: int) -> IO[bytes]:
        return open_regular(self.path(index))

    def states(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n, 3): bytes, and the times of change of content and of the file."""
        found, root = list[int](), os.fsencode(self.root)
        for name in encoded_names(self.names.text, self.names.lengths, indices):
            try:
                status = os.stat(b"%s/%s" % (root, name))  # noqa: PTH116  # pathlib takes three times as long
                found += (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            except OSError:
                found += (-1, -1, -1)
        return np.array(found, dtype=np.int64).reshape(-1, 3)


def recognise(path: Path) -> bool:
    """Any directory."""
    return path.is_dir()


def open_stored(path: Path, labels: Labels | None) -> StoredImages:
    """The images below a directory, labelled as `tree_labels` does.

    labels: None also passes over a lone directory of directories, which is only their wrapping.
    """
    tree = folder_tree(path)
    if labels is None and tree.wrapper is not None:
        return open_stored(path / tree.wrapper, labels)
    numbers, class_names = tree_labels(
        tree, labels, lambda table: (path / table).read_bytes() if (path / table).is_file() else None
    )
    if labels in (None, "folders"):
        _refuse_linked(path, tree.directories)
    images = FolderImages(path, PackedNames(tree.images))
    return StoredImages(
        images=images, labels=numbers, class_names=class_names, kinds=tree.kinds, left_out=tree.left_out(labels)
    )


def _refuse_linked(root: Path, classes: Iterable[str]) -> None:
    """Refuse two classes that a link makes one folder: each of its images would have two labels."""
    seen = dict[str, str]()
    for name in classes:
        other = seen.setdefault(os.path.realpath(root / name), name)
        if other != name:
            raise ValueError(f"the classes '{other}' and '{name}' of {root} are one folder, by a link; remove one")
