"""Images in a folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import IO

from ..config import Labels
from .storage import PackedNames, StoredImages
from .tree import folder_tree, tree_labels, wrapping


class FolderImages:
    """Files below a directory."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root = root
        self._names = PackedNames(names)

    def __len__(self) -> int:
        return len(self._names)

    def path(self, index: int) -> Path:
        return self.root / self._names[index]

    def open(self, index: int) -> IO[bytes]:
        return self.path(index).open("rb")


def recognise(path: Path) -> bool:
    """Any directory."""
    return path.is_dir()


def open_stored(path: Path, labels: Labels | None) -> StoredImages:
    """The images below a directory, labelled as `tree_labels` does.

    labels: None also passes over a lone directory of directories, which is only their wrapping.
    """

    def read(table: Path) -> bytes | None:
        return (path / table).read_bytes() if (path / table).is_file() else None

    tree = folder_tree(path)
    inner = wrapping(tree) if labels is None else None
    if inner is not None:
        return open_stored(path / inner, labels)
    numbers, class_names = tree_labels(tree, labels, read)
    return StoredImages(images=FolderImages(path, tree.images), labels=numbers, class_names=class_names)
