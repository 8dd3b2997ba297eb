"""Images in WebDataset shards: tar files in which KEY.jpg lies beside KEY.cls or KEY.json.

The webdataset package reads shards as a stream (its indexed reader, wids, is gone since release 1.0). Our order of
samples is a function of their index, so the shards are indexed here, once, and read at random.
"""

import io
import json
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from ..config import Labels
from ..labels import Label, numbered
from .storage import PackedNames, StoredImages, narrow
from .tree import EXTENSIONS

# WebDataset's rule: the key ends at the first dot of the file's name, wherever the file lies.
_KEY_AND_EXTENSION = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")
_MOST_BYTES = 1 << 30
"""Of an image, as no image that Pillow reads needs more."""
_MOST_LABEL_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """An image within its shard, and its label."""

    name: str
    offset: int
    size: int
    label: Label


class TarImages:
    """Members of uncompressed tars, by their offsets."""

    def __init__(self, shards: Sequence[Path], samples: Sequence[Sequence[_Sample]]) -> None:
        """samples: those of each shard."""
        self._shards = tuple(shards)
        self.names = PackedNames(sample.name for shard in samples for sample in shard)
        self._ends = np.cumsum([len(shard) for shard in samples])
        places = [(sample.offset, sample.size) for shard in samples for sample in shard]
        self._offsets, self._sizes = map(narrow, np.array(places, dtype=np.int64).reshape(len(places), 2).T)

    def path(self, index: int) -> Path:
        return self._shard(index) / self.names[index]

    def states(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n, 3): bytes, the last change of the shard, and the place in it."""
        found = [shard.stat() for shard in self._shards]
        changed = np.array([max(status.st_mtime_ns, status.st_ctime_ns) for status in found])
        changed = changed[np.searchsorted(self._ends, indices, side="right")]
        return np.stack([self._sizes[indices], changed, self._offsets[indices]], axis=1).astype(np.int64)

    def open(self, index: int) -> IO[bytes]:
        offset, size = int(self._offsets[index]), int(self._sizes[index])
        if size > _MOST_BYTES:
            raise ValueError(f"it has {size:,} bytes")
        with self._shard(index).open("rb") as shard:
            shard.seek(offset)
            return io.BytesIO(shard.read(size))

    def _shard(self, index: int) -> Path:
        return self._shards[int(np.searchsorted(self._ends, index, side="right"))]


def recognise(path: Path) -> bool:
    """A .tar, or a folder of .tar files with neither folders nor images in it: class folders may have tars beside."""
    if not path.is_dir():
        return path.suffix == ".tar" and path.is_file()
    entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    foreign = any(entry.is_dir() or entry.suffix.lower() in EXTENSIONS for entry in entries)
    return not foreign and any(entry.suffix == ".tar" for entry in entries)


def open_stored(path: Path, labels: Labels | None) -> StoredImages:
    """The samples of one .tar, or of all of a directory in the order of their names.

    A sample's label is its .cls, a class number or a name, or else the "label" of its .json. Class numbers are named by
    the file classes.txt (a name a line) beside the shards; without one, by their digits.
    """
    if labels not in ("folders", None):
        raise ValueError(f"{path} holds WebDataset shards, whose labels are their own; leave out data.labels")
    shards = [path] if path.is_file() else sorted(path.glob("[!.]*.tar"))
    samples = [_samples(shard) for shard in shards]
    found = [sample.label for shard in samples for sample in shard]
    numbers, class_names = numbered(found, source=path)
    table = (path if path.is_dir() else path.parent) / "classes.txt"
    if table.is_file():
        class_names = _named(table, class_names, path)
    images = TarImages(shards, samples)
    return StoredImages(images=images, labels=numbers, class_names=class_names, left_out=_left_out(path))


def _left_out(path: Path) -> dict[str, list[str]]:
    """Files beside the shards, by extension; a compressed shard is one."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for file in sorted(path.glob("[!.]*")) if path.is_dir() else ():
        if file.suffix != ".tar" and file.name != "classes.txt":
            found[file.suffix or "without an extension"].append(file.name)
    return found


def _samples(shard: Path) -> list[_Sample]:
    try:
        with tarfile.open(shard, "r:") as tar:
            samples = [
                _sample(shard, key, {extension: member for _, extension, member in files}, tar)
                for key, files in groupby(_files(tar), key=itemgetter(0))
            ]
            # tarfile takes the end of the file for the end of the archive, and stops in silence at a broken header.
            assert tar.fileobj is not None
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"no end of the archive where one is due, at byte {tar.offset}")
    except tarfile.TarError as error:
        raise ValueError(
            f"{shard} is not a whole, uncompressed tar ({error}); fetch or pack it again, without compression"
        ) from error
    if not samples:
        raise ValueError(f"{shard} is empty; fetch or pack it again, or remove it")
    return samples


def _files(tar: tarfile.TarFile) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Key, extension and member of each file."""
    for member in tar:
        cast(Any, tar).members = []  # undocumented: tarfile remembers every member, and a tar may hold millions
        match = _KEY_AND_EXTENSION.fullmatch(member.name)
        if member.isreg() and match is not None:
            yield match[1], match[2].lower(), member


def _sample(shard: Path, key: str, members: dict[str, tarfile.TarInfo], tar: tarfile.TarFile) -> _Sample:
    images = [member for extension, member in members.items() if f".{extension}".endswith(EXTENSIONS)]
    if len(images) != 1:
        raise ValueError(
            f"the sample {key} of {shard} holds {len(images)} images (its files: .{', .'.join(members)}); WebDataset "
            f"shards hold an image (KEY.jpg) and its label (KEY.cls or KEY.json) side by side"
        )
    label = _label(members, tar)
    if label is None:
        raise ValueError(
            f"the image {images[0].name} of {shard} has no label: expected {key}.cls, a class number, or {key}.json, "
            f'{{"label": ..}}, next to it; if the tar is an ordinary archive of class folders, unpack it'
        )
    return _Sample(name=images[0].name, offset=images[0].offset_data, size=images[0].size, label=label)


def _label(members: dict[str, tarfile.TarInfo], tar: tarfile.TarFile) -> Label | None:
    name = next((name for name in ("cls", "json") if name in members), None)
    file = None if name is None else tar.extractfile(members[name])
    if name is None or file is None:
        return None
    content = file.read(_MOST_LABEL_BYTES + 1)
    if len(content) > _MOST_LABEL_BYTES:
        longest = f"longer than {_MOST_LABEL_BYTES:,} bytes, which no label is"
        raise ValueError(f"{members[name].name} of {tar.name} is {longest}; fetch or pack it again")
    if name == "cls":
        return content.decode(errors="replace").strip() or None
    with suppress(ValueError, RecursionError):
        match json.loads(content):
            case {"label": str() | int() as label} if not isinstance(label, bool):
                return label
    return None


def _named(table: Path, digits: tuple[str, ...], source: Path) -> tuple[str, ...]:
    names = table.read_text(encoding="utf-8-sig").splitlines()
    if not all(names):
        raise ValueError(f"{table} must hold a class name a line; it has empty lines")
    if len(set(names)) < len(names):
        raise ValueError(f"{table} has a class name twice; class names must differ")
    if digits != tuple(str(number) for number in range(len(digits))):
        raise ValueError(f"the labels of {source} are names already ('{digits[0]}'), so that {table} is not needed")
    if len(digits) > len(names):
        raise ValueError(f"{source} has the class number {len(digits) - 1}, but {table} names {len(names)} classes")
    return tuple(names)
