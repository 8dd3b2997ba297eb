"""Images in folders and zips, both trees of files, labelled by their places, their names or a table."""

import logging
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from ..labels import Label, numbered, table_labels
from ..listing import Tree, archive_tree, filename_classes, folder_classes, folder_tree, place_classes, wrapping
from ..storage import LabelledImages, PackedNames

_ENCRYPTED = 0x1  # of the general purpose flags, APPNOTE.TXT 4.4.4
_LOCAL_HEADER_BYTES = 30
_LOCAL_HEADER_MAGIC = b"PK\x03\x04"

_logger = logging.getLogger(__name__)


class FolderStorage:
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


class ZipStorage:
    """Members of a zip. `zipfile.ZipFile` would read the whole directory again in every process, and keep it."""

    def __init__(self, root: Path, members: Sequence[zipfile.ZipInfo]) -> None:
        self.root = root
        self._names = PackedNames(member.filename for member in members)
        numbers = [(m.header_offset, m.compress_size, m.file_size, m.CRC, m.compress_type) for m in members]
        self._numbers = np.array(numbers, dtype=np.int64).reshape(len(members), 5)

    def __len__(self) -> int:
        return len(self._names)

    def path(self, index: int) -> Path:
        return self.root / self._names[index]

    def open(self, index: int) -> IO[bytes]:
        """The member, decompressed while read; reading to its end checks its CRC."""
        member = zipfile.ZipInfo(self._names[index])
        offset, member.compress_size, member.file_size, member.CRC, member.compress_type = self._numbers[index].tolist()
        file = self.root.open("rb")
        try:
            file.seek(offset)
            header = file.read(_LOCAL_HEADER_BYTES)
            if len(header) < _LOCAL_HEADER_BYTES or not header.startswith(_LOCAL_HEADER_MAGIC):
                raise zipfile.BadZipFile("there is no member where the zip's directory says")
            # The name and the extra field, whose lengths may differ from those in the zip's directory.
            file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
            # The cast: ZipExtFile is a binary file by its behaviour, but does not say so by its types.
            return cast(IO[bytes], zipfile.ZipExtFile(file, "r", member, close_fileobj=True))
        except BaseException:
            file.close()
            raise


def open_folder(root: Path, *, labels: Literal["folders", "filenames"] | Path | None) -> LabelledImages:
    """The images below a directory.

    labels: as `DataConfig.labels`; a table is looked for below `root` first. None: class folders if there are any, an
    empty one being a class as well; images beside one another have no labels, and a lone directory of directories is
    only their wrapping.

    Raises:
        FileNotFoundError: no such table.
        ValueError: nothing that could be labelled so; the message says what is there and what to do.
    """

    def read(table: Path) -> bytes | None:
        return (root / table).read_bytes() if (root / table).is_file() else None

    tree = folder_tree(root)
    if labels is None:
        inner = wrapping(tree)
        return open_folder(root / inner, labels=None) if inner else _placed(tree, FolderStorage(root, tree.images))
    return _labelled(tree, FolderStorage(root, tree.images), labels, read)


def open_zip(
    archive: Path, inside: str = "", *, labels: Literal["folders", "filenames"] | Path | None
) -> LabelledImages:
    """The images below the directory `inside` of a zip; otherwise as `open_folder`.

    Raises:
        ValueError: also for a damaged zip, one with encrypted members or with two of one name.
    """
    with _opened(archive) as file:
        members = _members(file, f"{inside}/" if inside else "")
        tree = archive_tree(archive / inside, members)
        images = [members[name] for name in tree.images]
        encrypted = [member.filename for member in images if member.flag_bits & _ENCRYPTED]
        if encrypted:
            raise ValueError(
                f"{len(encrypted)} members of {archive} are encrypted, the first {encrypted[0]}; pack it without a "
                f"password"
            )

        def read(table: Path) -> bytes | None:
            member = members.get(table.as_posix())
            return None if member is None else _read(file, member)

        if not members:
            raise ValueError(f"{archive} holds nothing{f' below {inside}' if inside else ''}; expected images")
        if labels is None:
            inner = wrapping(tree)
            if inner:
                return open_zip(archive, f"{inside}/{inner}" if inside else inner, labels=None)
            return _placed(tree, ZipStorage(archive, images))
        return _labelled(tree, ZipStorage(archive, images), labels, read)


def _opened(archive: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ValueError(f"{archive} is not a whole zip ({error}); fetch or pack it again") from error


def _read(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        return file.read(member)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: encrypted
        raise ValueError(f"{member.filename} in {file.filename} cannot be read ({error}); pack it again") from error


def _members(file: zipfile.ZipFile, inside: str) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for member in file.infolist():
        name = member.filename.removeprefix("./")
        if name.startswith(inside) and (name := name.removeprefix(inside)):
            if name in members:
                raise ValueError(f"{file.filename} holds two members of the name {inside}{name}; pack it again")
            members[name] = member
    return members


def _placed(tree: Tree, storage: FolderStorage | ZipStorage) -> LabelledImages:
    classes = place_classes(tree)
    if classes is None:
        return LabelledImages(storage=storage, labels=np.full(len(tree.images), -1), class_names=())
    return LabelledImages(storage=storage, labels=_numbers(classes, tree.directories), class_names=tree.directories)


def _numbers(classes: Sequence[str], class_names: Sequence[str]) -> NDArray[np.int64]:
    number_of = {name: number for number, name in enumerate(class_names)}
    return np.array([number_of[name] for name in classes], dtype=np.int64)


def _labelled(
    tree: Tree,
    storage: FolderStorage | ZipStorage,
    labels: Literal["folders", "filenames"] | Path,
    read: Callable[[Path], bytes | None],
) -> LabelledImages:
    """read: a file of the tree, None where it has none."""
    if isinstance(labels, Path):
        content = read(labels)
        source = tree.root / labels if content is not None else labels
        class_names, numbers = numbered(_from_table(tree, content, labels, source), source=source)
        return LabelledImages(storage=storage, labels=numbers, class_names=class_names)
    if labels == "folders":
        classes = folder_classes(tree)
        _warn_of_wrapping(tree)
    else:
        classes = filename_classes(tree)
    class_names = tuple(sorted(set(classes)))
    return LabelledImages(storage=storage, labels=_numbers(classes, class_names), class_names=class_names)


def _from_table(tree: Tree, content: bytes | None, labels: Path, source: Path) -> list[Label]:
    if content is None:
        if not labels.is_file():
            raise FileNotFoundError(
                f"there is no {labels}, neither in {tree.root} nor from here; data.labels is folders, filenames or a "
                f"table of labels (.csv, .json)"
            )
        content = labels.read_bytes()
    return table_labels(tree, content, source=source)


def _warn_of_wrapping(tree: Tree) -> None:
    """One class whose images all lie in folders is legal, but mostly a folder that was packed or named by mistake."""
    name = wrapping(tree)
    if name is not None:
        inner = sorted({image.split("/", 2)[1] for image in tree.images})
        _logger.warning(
            "all images of %s are of one class, '%s', in %d folders (%s, ..); if those are the classes, give %s",
            tree.root, name, len(inner), inner[0], tree.root / name,
        )  # fmt: skip
