"""Files and directories that appear on disk whole or not at all, and the hash of a file's content."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A binary file opened beside `path` that takes its name, fsynced, only if the block ends without an error.

    A reader therefore finds the old content or the new, never a part. Creates missing parent directories.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A directory to fill beside `path` that takes its name, synced to disk, only if the block ends without an error.

    replace: a directory that is at `path` already is removed after the block, instead of being refused before it.
    Creates missing parent directories.

    Raises:
        FileExistsError: something is at `path` already.
    """
    if path.exists() and not replace:
        raise FileExistsError(f"{path} is there already; remove it or give another --out")
    partial = path.with_name(f".partial-{path.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        sync_to_disk(partial)
        if path.exists():
            remove_directory(path)
        partial.rename(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_directory(path: Path) -> None:
    """Delete a directory, renamed first, so that a directory of its name is complete even during the deletion."""
    doomed = path.with_name(f".partial-removed-{path.name}")
    path.rename(doomed)
    shutil.rmtree(doomed)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as indented JSON, atomically.

    Raises:
        TypeError: a value that JSON does not have.
        ValueError: NaN or infinity.
    """
    encoded = json.dumps(content, indent=2, allow_nan=False).encode()
    with atomic_write(path) as file:
        file.write(encoded + b"\n")


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_to_disk(directory: Path) -> None:
    """Force a directory's files, and the directories themselves, onto the disk."""
    for path in [*directory.rglob("*"), directory]:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
