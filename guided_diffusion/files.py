"""Files and directories that appear on disk whole or not at all, and the hash of a file's content."""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, Literal


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Let an OSError of the block that names no file, such as a full disk's, name `path`.

    An OSError counts also where a library hid it behind a RuntimeError, as torch.save does.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        if cause.errno is not None and cause.filename is None:
            cause.filename = str(path)
        raise cause from None


LOCK = ".lock"
"""Name of the file in a directory that is locked."""


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A binary file opened beside `path` that takes its name, fsynced, only if the block ends without an error.

    A reader therefore finds the old content or the new, never a part. Creates missing parent directories. An OSError
    of the block names `path` if it names no file: "no space left" says where.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_orphans(path.parent.glob(f".{escape(path.name)}.*.tmp"))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with named_errors(path), _owned(temporary, os.O_CREAT | os.O_TRUNC | os.O_RDWR) as descriptor:
            with open(descriptor, "wb", closefd=False) as file:
                yield file
            os.fsync(descriptor)
            temporary.replace(path)
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A directory to fill beside `path` that takes its name, synced to disk, only if the block ends without an error.

    replace: a directory that is at `path` already is removed after the block, instead of being refused before it.
    Creates missing parent directories. An OSError of the block names `path` if it names no file.

    Raises:
        FileExistsError: something is at `path` already.
    """
    taken = FileExistsError(f"{path} is there already; remove it or give another --out")
    if path.exists() and not replace:
        raise taken
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_orphans(path.parent.glob(f".partial-{escape(path.name)}*"))
    partial = path.with_name(f".partial-{path.name}.{os.getpid()}")
    try:
        with named_errors(path), _owned(partial, os.O_DIRECTORY | os.O_RDONLY):
            yield partial
            sync_to_disk(partial)
            if replace and (path.exists() or path.is_symlink()):
                remove_directory(path)
            try:
                partial.rename(path)
            except OSError as error:
                raise taken if path.exists() else error from None  # another process has put something there meanwhile
            _sync(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_directory(path: Path) -> None:
    """Delete a directory or file, renamed first, so that a directory of its name is complete even while it goes."""
    doomed = path.with_name(f".partial-removed-{path.name}.{os.getpid()}")
    path.rename(doomed)
    with suppress(OSError):  # another process may tidy it away at the same time
        shutil.rmtree(doomed) if doomed.is_dir() and not doomed.is_symlink() else doomed.unlink()


@contextmanager
def locked(directory: Path, *, work: str, name: str | None = None) -> Iterator[None]:
    """Keep a directory, created if missing, for one process while the block runs; only the main process asks for it.

    work: the activity, for the message: "training". name: the one file of a shared directory that is kept instead of
    all. What a killed process left in the directory is removed at the start. The operating system releases the lock of
    a process that ends in any way. Where a file system has no locks, nothing is locked.

    Raises:
        ValueError: another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path, place = (directory / LOCK, directory) if name is None else (directory / f".{name}.lock", directory / name)
    refusal = f"another {work} is at work in {place}; wait for it, or choose another --out"
    with _owned(path, os.O_CREAT | os.O_RDWR, refusal=refusal):
        try:
            if name is None:
                remove_leftovers(directory)
            yield
        finally:
            path.unlink(missing_ok=True)


def _is_open_at(path: Path, descriptor: int) -> bool:
    """True if an open file is the one that has this name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def remove_leftovers(directory: Path) -> None:
    """Delete what killed processes left half-written in a directory; what a living process writes stays.

    Their names hold a process id, so hidden files of a user's own, such as `.notes.tmp`, stay as well.
    """
    _remove_orphans(path for path in directory.glob(".*") if _TEMPORARY.fullmatch(path.name))


@contextmanager
def _owned(path: Path, flags: int, *, refusal: str | None = None) -> Iterator[int]:
    """A file or directory, made if missing, open and marked as in use by this process while the block runs.

    refusal: the message of a ValueError where another process has it; None: wait for it.
    """
    while True:
        if flags & os.O_DIRECTORY:
            path.mkdir(exist_ok=True)
        with _opened(path, flags) as descriptor:
            is_taken = _lock(descriptor) == "taken"
            if is_taken and refusal is not None:
                raise ValueError(refusal)
            if not is_taken and _is_open_at(path, descriptor):
                yield descriptor
                return
        # Another process has it for a moment, to remove it, or has removed it before it was locked.


_descriptors: set[int] = set()
"""Open files whose locks this process holds."""


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """An open file or directory for a lock; forked workers, which may outlive this process, do not hold it."""
    descriptor = os.open(path, flags, 0o666)
    _descriptors.add(descriptor)
    try:
        yield descriptor
    finally:
        _descriptors.discard(descriptor)
        os.close(descriptor)


def _close_in_worker() -> None:
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()


os.register_at_fork(after_in_child=_close_in_worker)


_TEMPORARY = re.compile(r"\.partial-(.*\.\d+|(removed-)?checkpoint-\d+)|\..*\.\d+\.tmp", re.DOTALL)
"""Temporary names; version 0.1 wrote checkpoints under names without a process id."""


def _remove_orphans(paths: Iterable[Path]) -> None:
    """Delete temporary files and directories that no living process has open; tidying never stops the work."""
    for path in paths:
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                if _lock(descriptor) == "ours":
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
            finally:
                os.close(descriptor)


def _lock(descriptor: int) -> Literal["ours", "taken", "unsupported"]:
    """Lock an open file or directory until it is closed, if no other process has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return "taken" if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN) else "unsupported"
    return "ours"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as indented JSON, atomically.

    Raises:
        TypeError: a value that JSON does not have.
        ValueError: NaN or infinity.
    """
    encoded = json.dumps(content, indent=2, allow_nan=False).encode()
    with atomic_write(path) as file:
        file.write(encoded + b"\n")


def open_regular(path: Path) -> BufferedReader:
    """The file at a path, open for reading; at a pipe or a device a reader might wait for ever.

    Raises:
        OSError: no regular file; or as `open` raises it.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "this is no regular file, but a pipe, a device or a directory", str(path))
    return path.open("rb")


def cache_folder() -> Path | None:
    """This project's folder for what later runs need not make again; None without a home. XDG_CACHE_HOME moves it."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # as its specification says
        with suppress(RuntimeError):
            base = Path.home() / ".cache"
    return base / "guided-diffusion" if base.is_absolute() else None


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, computed once in a process for as long as the file stays the same.

    It counts as the same by inode, size and times. A file that changed within the last two seconds is always read: a
    further change within one tick of its file system's clock would not show.
    """
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
        changed = max(status.st_mtime_ns, status.st_ctime_ns)
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if identity in _digests:
            return _digests[identity]
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time_ns() - changed > SETTLED_NS:
        _digests[identity] = digest
    return digest


_digests: dict[tuple[int, ...], str] = {}
SETTLED_NS = 2_000_000_000
"""Age from which on a file's times tell every change: the coarsest clock of a file system in use is FAT's."""


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
