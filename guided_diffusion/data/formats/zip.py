"""Images in a zip, or below a directory within it: `data.zip/train`."""

import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from ..config import Labels
from .npz import refuse_damage
from .storage import PackedNames, StoredImages, narrow
from .tree import archive_tree, tree_labels

_logger = logging.getLogger(__name__)

_ENCRYPTED = 0x1  # of the general purpose flags, APPNOTE.TXT 4.4.4
_UTF8 = 0x800
_LOCAL_HEADER_BYTES = 30
_LOCAL_HEADER_MAGIC = b"PK\x03\x04"


class ZipImages:
    """Members of a zip. `zipfile.ZipFile` would read the whole directory again in every process, and keep it."""

    def __init__(self, root: Path, members: Sequence[zipfile.ZipInfo]) -> None:
        self._root = root
        self.names = PackedNames(member.filename for member in members)
        numbers = [(m.header_offset, m.compress_size, m.file_size, m.CRC, m.compress_type) for m in members]
        self._numbers = [*map(narrow, np.array(numbers, dtype=np.int64).reshape(len(members), 5).T)]

    def path(self, index: int) -> Path:
        return self._root / self.names[index]

    def states(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n, 3): bytes, CRC and place, as the zip's directory has them."""
        return np.stack([self._numbers[column][indices].astype(np.int64) for column in (2, 3, 0)], axis=1)

    def open(self, index: int) -> IO[bytes]:
        """The member, decompressed while read; reading to its end checks its CRC."""
        member = zipfile.ZipInfo(self.names[index])
        numbers = (int(column[index]) for column in self._numbers)
        offset, member.compress_size, member.file_size, member.CRC, member.compress_type = numbers
        file = self._root.open("rb")
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


def recognise(path: Path) -> bool:
    """A zip, or a place within one, which need not exist."""
    return _archive(path) is not None


def open_stored(path: Path, labels: Labels | None) -> StoredImages:
    """The images of a zip, labelled as those of a folder are."""
    archive = _archive(path)
    assert archive is not None
    with refuse_damage(f"{archive} is not a whole zip", remedy="fetch or pack it again"):
        file = zipfile.ZipFile(archive)
    with file:
        inside = path.relative_to(archive).as_posix()
        members = _members(file, "" if inside == "." else f"{inside}/")
        if not members:
            raise ValueError(f"{archive} holds nothing{f' below {inside}' if inside != '.' else ''}; expected images")
        tree = archive_tree(path, members)
        images = [members[name] for name in tree.images]
        encrypted = [member.filename for member in images if member.flag_bits & _ENCRYPTED]
        if encrypted:
            raise ValueError(
                f"{len(encrypted)} members of {archive} are encrypted, the first {encrypted[0]}; pack it without a "
                f"password"
            )
        if labels is None and tree.wrapper is not None:
            return open_stored(path / tree.wrapper, labels)
        numbers, class_names = tree_labels(tree, labels, lambda table: _content(file, members.get(table.as_posix())))
        return StoredImages(
            images=ZipImages(archive, images), labels=numbers, class_names=class_names, kinds=tree.kinds,
            left_out=tree.left_out(labels),
        )  # fmt: skip


def _archive(path: Path) -> Path | None:
    """The zip that a path is, or leads into."""
    places = (path, *path.parents)
    return next((place for place in places if place.suffix.lower() == ".zip" and place.is_file()), None)


def _content(file: zipfile.ZipFile, member: zipfile.ZipInfo | None) -> bytes | None:
    if member is None:
        return None
    with refuse_damage(f"{member.filename} in {file.filename} cannot be read", remedy="pack it again"):
        return file.read(member)


def _members(file: zipfile.ZipFile, inside: str) -> dict[str, zipfile.ZipInfo]:
    """Members below a directory, by name: UTF-8 if it is that, and with "/" between folders, whatever packed them."""
    stored = file.infolist()
    has_slashes = any("/" in member.filename for member in stored)  # else a "\\" is what Windows puts in its place
    members: dict[str, zipfile.ZipInfo] = {}
    unclear: list[str] = []
    for member in stored:
        name = member.filename
        if not name.isascii() and not member.flag_bits & _UTF8:
            try:
                name = name.encode("cp437").decode()  # packers of macOS and Linux write UTF-8 without saying so
            except UnicodeError:
                unclear.append(name)
        member.filename = name.removeprefix("./") if has_slashes else name.replace("\\", "/")
        if member.filename.startswith(inside) and (name := member.filename.removeprefix(inside)):
            if name in members:
                raise ValueError(f"{file.filename} holds two members of the name {inside}{name}; pack it again")
            members[name] = member
    if unclear:
        _logger.warning(
            "%s names %d files in a code page that it does not tell, taken for cp437, the first %s; if that is not its "
            "name, pack it again with UTF-8 names", file.filename, len(unclear), unclear[0],
        )  # fmt: skip
    return members
