"""Writing a prepared data set: an interrupted run is continued, and other images in its directory are refused."""

import hashlib
import io
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..config import differences
from ..files import atomic_write, file_sha256, write_json
from .config import DataConfig
from .formats.npz import write_npy_header
from .formats.packed import FORMAT, IMAGES, LABELS, PARTIAL, RECORD, read_record
from .image_set import ImageSet
from .workers import read_each

UNFINISHED = "preparing.json"
"""The record of an unfinished directory."""


def write_prepared(out: Path, images: ImageSet, config: DataConfig) -> int:
    """Write the missing files of a prepared data set and return the size of its pixels in bytes.

    Raises:
        ValueError: the directory holds other images or other files; or a damaged image.
    """
    identity, claim, finished = _identity(images, config), out / UNFINISHED, (out / RECORD).exists()
    if finished or claim.exists():
        stored = dict(read_record(out) if finished else json.loads(claim.read_text()))
        stored.pop("images_sha256", None)
        differing = differences(stored, identity)
        if differing:
            raise ValueError(f"{out} is of other images: {'; '.join(differing)}; give another --out, or remove it")
    elif out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} holds other files; give --out a directory that is new or empty")
    if not finished:
        write_json(claim, identity)
        if not (out / IMAGES).exists():
            _write_images(out, images, num_workers=config.num_workers)
        with atomic_write(out / LABELS) as file:
            np.save(file, images.labels.numpy(), allow_pickle=False)
        write_json(out / RECORD, {**identity, "images_sha256": file_sha256(out / IMAGES)})
        claim.unlink()
    return (out / IMAGES).stat().st_size


def _identity(images: ImageSet, config: DataConfig) -> dict[str, Any]:
    """All that the pixels and labels depend on, but for the content of the source's files."""
    listing = hashlib.sha256()
    for path in images.paths:
        listing.update(os.fsencode(path.relative_to(config.path)) + b"\0")
    listing.update(images.labels.numpy().tobytes())
    return {
        "format": FORMAT,
        "source": str(config.path),
        "listing_sha256": listing.hexdigest(),
        "count": len(images),
        "size": images.image_size,
        "mode": images.mode,
        "crop": config.crop,
        "decode": "exact",  # JPEGs at their full size
        "on_error": config.on_error,
        "class_names": list(images.class_names),
        **({} if config.window is None else {"window": list(config.window)}),
        **({"turned": turned} if (turned := images.headers.turned if images.headers else 0) else {}),
    }


def _write_images(out: Path, images: ImageSet, *, num_workers: int) -> None:
    """Append the crops in order to a partial file, whose length says how many an earlier attempt left whole."""
    header = io.BytesIO()
    write_npy_header(header, (len(images), *images.shape))
    num_bytes = math.prod(images.shape)
    with (out / PARTIAL).open("ab") as file:
        start = max(0, file.seek(0, os.SEEK_END) - header.tell()) // num_bytes
        file.truncate(header.tell() + start * num_bytes if start else 0)
        if not start:
            file.write(header.getvalue())
        for pixels in read_each(images.pixels, len(images), start=start, num_workers=num_workers, desc=out.name):
            file.write(pixels.data)
        file.flush()
        os.fsync(file.fileno())
    (out / PARTIAL).replace(out / IMAGES)
