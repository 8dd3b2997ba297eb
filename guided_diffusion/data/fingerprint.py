"""The fingerprint of a set of pictures, by which a resumed training knows its images again."""

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np

from .decoder import DecodedImages
from .formats.folder import FolderImages
from .formats.storage import encoded_names
from .image_set import ImageSet
from .subset import evenly_spaced

MOST_READ = 64


def fingerprint(images: ImageSet) -> str:
    """SHA-256 of the pictures' relative names, sizes in bytes and labels, wherever they lie and whenever copied.

    It detects pictures that vanished or were replaced, and reads at most MOST_READ of them, evenly spaced, for formats
    whose files are all of one size. Sizes of files in folders are those found when the set was opened.
    """
    assert isinstance(images.source, DecodedImages)
    files, entries, digest = images.source.files, images.source.entries, sha256()
    for (path, num_bytes), label in zip(_sized_paths(images), images.labels.tolist(), strict=True):
        place = path.removeprefix(str(images.path))
        digest.update(f"{place}\0{num_bytes}\0{label}\n".encode(errors="surrogateescape"))
    for index in evenly_spaced(len(images), most=MOST_READ):
        with files.open(int(entries[index])) as file:
            digest.update(file.read())
    return digest.hexdigest()


def _sized_paths(images: ImageSet) -> Iterator[tuple[str, int | None]]:
    """The path of each picture, and the size of its file or of the archive that holds it, None if neither is a file."""
    assert isinstance(images.source, DecodedImages)
    files, headers = images.source.files, images.headers
    if not isinstance(files, FolderImages) or headers is None or headers.num_bytes is None:
        return ((str(path), _bytes(path)) for path in images.paths)
    root = str(files.path(0)).removesuffix(files.names[0])  # pathlib takes ten times as long as a sum of texts
    entries = np.asarray(images.source.entries)
    names = encoded_names(files.names.text, files.names.lengths, entries)
    return zip((root + os.fsdecode(name) for name in names), headers.num_bytes[entries].tolist(), strict=True)


def _bytes(path: Path) -> int | None:
    with suppress(OSError):
        return _archive_bytes(path.parent) or path.stat().st_size
    return None


@lru_cache(maxsize=4096)
def _archive_bytes(path: Path) -> int | None:
    """Size of the file that a place lies in."""
    return next((place.stat().st_size for place in (path, *path.parents) if place.is_file()), None)
