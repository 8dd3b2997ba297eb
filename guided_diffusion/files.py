"""Files that are written whole or not at all."""

import json
import os
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
        _sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as indented JSON, atomically.

    Raises TypeError for values that JSON does not know, ValueError for NaN.
    """
    encoded = json.dumps(content, indent=2, allow_nan=False).encode()
    with atomic_write(path) as file:
        file.write(encoded + b"\n")


def _sync_directory(directory: Path) -> None:
    # Renaming is durable only once the directory itself is on disk; Windows cannot open one, and needs none.
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
