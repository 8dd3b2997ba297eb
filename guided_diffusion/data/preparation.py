"""Writing a prepared data set: an interrupted run is continued, and other images in its directory are refused."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..config import differences
from ..files import atomic_write, write_json
from .config import DataConfig
from .formats.packed import FORMAT, IMAGES, LABELS, RECORD, read_record, write_images
from .image_set import ImageSet
from .workers import chunks, read_in_workers

UNFINISHED = "preparing.json"
"""The record of an unfinished directory."""


def write_prepared(out: Path, images: ImageSet, config: DataConfig) -> int:
    """Write the missing files of a prepared data set and return the size of its pixels in bytes.

    Raises:
        ValueError: the directory holds other images or other files; or a damaged image.
        OSError: the disk is full, or fails.
    """
    identity = _identity(images, config)
    if (out / RECORD).exists():
        record = dict(read_record(out))
        del record["images_sha256"]
        _refuse_others(out, record, identity)
        return (out / IMAGES).stat().st_size
    claim = out / UNFINISHED
    if claim.exists():
        _refuse_others(out, json.loads(claim.read_text()), identity)
    elif out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} holds other files; give --out a directory that is new or empty")
    write_json(claim, identity)
    if not (out / IMAGES).exists():
        with tqdm(total=len(images), desc=out.name, unit="img") as bar:
            cropped = partial(_cropped, images, num_workers=config.num_workers, bar=bar)
            write_images(out, (len(images), *images.shape), cropped)
    with atomic_write(out / LABELS) as file:
        np.save(file, images.labels.numpy(), allow_pickle=False)
    with (out / IMAGES).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    write_json(out / RECORD, {**identity, "images_sha256": sha256})
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
    }


def _refuse_others(out: Path, stored: dict[str, Any], identity: dict[str, Any]) -> None:
    differing = differences(stored, identity)
    if differing:
        raise ValueError(f"{out} is of other images: {'; '.join(differing)}; give another --out, or remove it")


def _cropped(images: ImageSet, start: int, *, num_workers: int, bar: tqdm) -> Iterator[NDArray[np.uint8]]:
    """uint8 (b, H, W, C) crops from image `start` on, in order."""
    bar.update(start)
    for pixels in read_in_workers(partial(_read, images), chunks(len(images), start=start), num_workers=num_workers):
        yield pixels
        bar.update(len(pixels))


def _read(images: ImageSet, indices: Sequence[int]) -> NDArray[np.uint8]:
    return np.stack([images.pixels(index) for index in indices])
