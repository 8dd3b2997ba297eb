"""Writing a prepared data set: an interrupted run is continued, and other images in its directory are refused."""

import hashlib
import io
import logging
import math
import os
import zlib
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files import atomic_write, file_sha256, locked, named_errors, write_json
from ..records import DamagedRecordError, differences, read_record
from .config import DataConfig
from .formats import packed
from .formats.npz import npy_header, write_npy_header
from .image_set import ImageSet
from .workers import read_each

UNFINISHED = "preparing.json"
"""The record of an unfinished directory."""
SIZES = "sizes_sha256"
"""Field of the sizes of the source's files; absent from old records."""

_logger = logging.getLogger(__name__)


def write_prepared(out: Path, images: ImageSet, config: DataConfig) -> int:
    """Write the missing files of a prepared data set and return the size of its pixels in bytes.

    A finished directory is compared with its hashes; files that were cut or changed are written again.

    Raises:
        ValueError: the directory holds other images or other files, or another process prepares it; or a damaged image.
    """
    identity = _identity(images, config)
    _is_of(identity, out)  # refuses before anything is written
    with locked(out, work="preparation"):
        is_known, is_finished, damage = _is_of(identity, out), (out / packed.RECORD).exists(), None
        if is_finished and (damage := _damage(out) if is_known else f"{out / packed.RECORD} is damaged"):
            _logger.warning("%s; it is prepared again", damage)
        if damage or not is_known:
            for name in (packed.PARTIAL, packed.IMAGES):
                (out / name).unlink(missing_ok=True)
        if damage or not is_finished:
            _write_files(out, images, identity, num_workers=config.num_workers)
        (out / UNFINISHED).unlink(missing_ok=True)
    return (out / packed.IMAGES).stat().st_size


def _write_files(out: Path, images: ImageSet, identity: dict[str, Any], *, num_workers: int) -> None:
    """Write the missing files of an unfinished directory, its record last."""
    write_json(out / UNFINISHED, identity)
    (out / packed.RECORD).unlink(missing_ok=True)
    if not (out / packed.IMAGES).exists():
        _write_images(out, images, num_workers=num_workers)
    sha256, checksums = _digests(out / packed.IMAGES, images.shape)
    for name, values in ((packed.LABELS, images.labels.numpy()), (packed.CHECKSUMS, checksums)):
        with atomic_write(out / name) as file:
            np.save(file, values, allow_pickle=False)
    hashes = {"images_sha256": sha256, "labels_sha256": file_sha256(out / packed.LABELS)}
    write_json(out / packed.RECORD, identity | hashes)


def _is_of(identity: dict[str, Any], out: Path) -> bool:
    """True if a directory's record says that it is of these images; False if it is new or says nothing.

    Raises:
        ValueError: it is of other images, or holds other files.
    """
    optional = {SIZES: str | None, "window": list[float] | None, "turned": int | None}
    fields = {key: type(value) for key, value in identity.items()} | optional
    for path in filter(Path.exists, (out / packed.RECORD, out / UNFINISHED)):
        with suppress(DamagedRecordError):
            stored = read_record(path, fields)
            known = {key: stored[key] for key in identity if key != SIZES or stored[SIZES] is not None}
            if differing := differences(known, {key: identity[key] for key in known}):
                raise ValueError(f"{out} is of other images: {'; '.join(differing)}; give another --out, or remove it")
            return True
    found = {path.name for path in out.iterdir() if not path.name.startswith(".")} if out.exists() else set[str]()
    if not found <= {packed.IMAGES, packed.LABELS, packed.CHECKSUMS, packed.RECORD, packed.PARTIAL, UNFINISHED}:
        raise ValueError(f"{out} holds other files; give --out a directory that is new or empty")
    return False


def _damage(out: Path) -> str | None:
    """Damage of a finished directory, in words; None: its files are as they were written."""
    try:
        images = packed.open_stored(out, None).images
    except ValueError as error:
        return str(error)
    assert isinstance(images, packed.PackedImages)
    sha256, checksums = _digests(out / packed.IMAGES, (images.size, images.size, images.channels))
    if packed.read_dataset(out)["images_sha256"] not in (None, sha256):
        return f"{out / packed.IMAGES} is damaged: it holds other pixels than were prepared"
    if images.checksum_offset is not None and not np.array_equal(np.load(out / packed.CHECKSUMS), checksums):
        return f"{out / packed.CHECKSUMS} is damaged: it differs from the checksums of {packed.IMAGES}"
    return None


def _digests(path: Path, shape: tuple[int, ...]) -> tuple[str, NDArray[np.uint32]]:
    """SHA-256 of a file of images of a shape (H, W, C), and the CRC-32 of each image."""
    num_bytes = math.prod(shape)
    checksums = list[int]()
    with path.open("rb") as file:
        npy_header(file)
        header = file.tell()
        file.seek(0)
        digest = hashlib.sha256(file.read(header))
        for pixels in iter(partial(file.read, num_bytes), b""):
            digest.update(pixels)
            checksums.append(zlib.crc32(pixels))
    return digest.hexdigest(), np.array(checksums, dtype=np.uint32)


def _identity(images: ImageSet, config: DataConfig) -> dict[str, Any]:
    """All that the pixels and labels depend on, with the sizes of the source's files in place of their content."""
    listing, sizes = hashlib.sha256(), hashlib.sha256()
    for path in images.paths:
        listing.update(os.fsencode(path.relative_to(config.path)) + b"\0")
    for path in images.paths if config.path.is_dir() else (config.path,):
        if path.is_file():  # not within an archive
            sizes.update(b"%d " % path.stat().st_size)
    listing.update(images.labels.numpy().tobytes())
    return {
        "format": packed.FORMAT,
        "source": str(config.path),
        "listing_sha256": listing.hexdigest(),
        SIZES: sizes.hexdigest(),
        "count": len(images),
        "size": images.image_size,
        "mode": images.mode,
        "crop": config.crop,
        "decode": "exact",  # JPEGs at their full size
        "on_error": config.on_error,
        "class_names": list(images.class_names),
        "window": config.window and list(config.window),
        "turned": images.headers and (images.headers.turned or None),
    }


def _write_images(out: Path, images: ImageSet, *, num_workers: int) -> None:
    """Append the crops in order to a partial file, whose length says how many an earlier attempt left whole."""
    header = io.BytesIO()
    write_npy_header(header, (len(images), *images.shape))
    num_bytes = math.prod(images.shape)
    with named_errors(out / packed.PARTIAL), (out / packed.PARTIAL).open("ab") as file:
        start = max(0, file.seek(0, os.SEEK_END) - header.tell()) // num_bytes
        file.truncate(header.tell() + start * num_bytes if start else 0)
        if not start:
            file.write(header.getvalue())
        for pixels in read_each(images.pixels, len(images), start=start, num_workers=num_workers, desc=out.name):
            file.write(pixels.data)
        file.flush()
        os.fsync(file.fileno())
    (out / packed.PARTIAL).replace(out / packed.IMAGES)
