"""Cropping a data set once, into the files of `packing.py`.

The pixels are appended in order to a partial file, whose length therefore says how far it is: whatever ends the
process, the same command goes on there.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..config import differences
from ..files import atomic_write, write_json
from .formats.packed import FORMAT, IMAGES, LABELS, PARTIAL, RECORD, read_record
from .image_set import DataConfig, ImageDataset, open_dataset

CHUNK = 64
"""Images that a worker process crops at a time."""
UNFINISHED = "preparing.json"
"""What the partial file beside it is of."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Crop all images once and pack them into few files, from which a training reads without decoding.

    A training with OUT as its data.path sees what it would see of the images themselves, to the bit, at that image
    size and with centre crops. Random crops would cut from the squares that are left: train with these on the images.
    """

    data: DataConfig
    """The images. What training draws anew each time, random crops and mirrors, cannot be prepared."""
    size: int
    """Side of the squares, pixels: the network's image size."""
    out: Path
    """Directory for the files; an interrupted run continues there."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size is a number of pixels, at least 1, not {self.size}")
        if self.data.crop != "center" or self.data.flip:
            raise ValueError(
                "prepared images are centre crops, not mirrored: leave out data.crop and data.flip (a training may "
                "still mirror them)"
            )


def prepare_data(config: PrepareConfig) -> None:
    """Write what is still missing of `config.out`.

    Raises:
        ValueError, FileNotFoundError: as `open_dataset`; or a directory that holds other images.
        OSError: the disk is full, or fails; what is written stays, and the same command goes on.
    """
    dataset = open_dataset(config.data, image_size=config.size)
    identity = _identity(config, dataset)
    if not _is_done(config.out, identity):
        _claim(config.out, identity)
        if not (config.out / IMAGES).exists():
            _write_images(config, dataset)
        with atomic_write(config.out / LABELS) as file:
            np.save(file, dataset.labels.numpy(), allow_pickle=False)
        with (config.out / IMAGES).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        write_json(config.out / RECORD, {**identity, "images_sha256": sha256})
        (config.out / UNFINISHED).unlink()
    size = (config.out / IMAGES).stat().st_size
    print(
        f"{config.out}: {len(dataset):,} images of {config.size}x{config.size} in {len(dataset.class_names)} classes, "
        f"{size / 1e6:,.0f} MB; train with --data.path {config.out}"
    )


def _identity(config: PrepareConfig, dataset: ImageDataset) -> dict[str, Any]:
    """All that the pixels and labels depend on, but for the content of the source's files."""
    listing = hashlib.sha256()
    for path in dataset.paths:
        listing.update(os.fsencode(path.relative_to(config.data.path)) + b"\0")
    listing.update(dataset.labels.numpy().tobytes())
    return {
        "format": FORMAT,
        "source": str(config.data.path),
        "listing_sha256": listing.hexdigest(),
        "count": len(dataset),
        "size": config.size,
        "mode": dataset.mode,
        "crop": config.data.crop,
        "decode": config.data.decode,
        "on_error": config.data.on_error,
        "class_names": list(dataset.class_names),
    }


def _is_done(out: Path, identity: dict[str, Any]) -> bool:
    if not (out / RECORD).exists():
        return False
    record = {name: value for name, value in read_record(out).items() if name != "images_sha256"}
    _refuse_others(out, record, identity)
    return True


def _claim(out: Path, identity: dict[str, Any]) -> None:
    """Say whose the partial file is, or see that it is ours."""
    claim = out / UNFINISHED
    if claim.exists():
        _refuse_others(out, json.loads(claim.read_text()), identity)
    elif out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} holds other files; give --out a directory that is new or empty")
    write_json(claim, identity)


def _refuse_others(out: Path, stored: dict[str, Any], identity: dict[str, Any]) -> None:
    differing = differences(stored, identity)
    if differing:
        raise ValueError(f"{out} is of other images: {'; '.join(differing)}; give another --out, or remove it")


def _write_images(config: PrepareConfig, dataset: ImageDataset) -> None:
    partial = config.out / PARTIAL
    shape = (config.size, config.size, dataset.channels)
    header = _npy_header((len(dataset), *shape))
    with partial.open("ab") as file:
        done = _whole_images(file, header, bytes_each=int(np.prod(shape)))
        with tqdm(total=len(dataset), initial=done, desc=config.out.name, unit="img") as bar:
            for pixels in _cropped(dataset, start=done, num_workers=config.data.num_workers):
                file.write(pixels.data)
                bar.update(len(pixels))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(config.out / IMAGES)


def _npy_header(shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    description = {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8))}
    np.lib.format.write_array_header_1_0(header, description)
    return header.getvalue()


def _whole_images(file: BinaryIO, header: bytes, *, bytes_each: int) -> int:
    """How many images an earlier run left whole; what it left of another is cut off."""
    written = file.seek(0, os.SEEK_END)
    if written < len(header):
        file.truncate(0)
        file.write(header)
        return 0
    done = (written - len(header)) // bytes_each
    file.truncate(len(header) + done * bytes_each)
    return done


class _Pixels(Dataset[Any]):  # Any: DataLoader's types know items and lists of them, not whole chunks
    """The dataset as a worker process sees it. Failures are values, so that their messages arrive as they are."""

    def __init__(self, dataset: ImageDataset) -> None:
        self.dataset = dataset

    def __getitems__(self, indices: Sequence[int]) -> NDArray[np.uint8] | ValueError | OSError:
        try:
            return np.stack([self.dataset.pixels(index) for index in indices])
        except (ValueError, OSError) as failure:
            return failure


def _cropped(dataset: ImageDataset, *, start: int, num_workers: int) -> Iterator[NDArray[np.uint8]]:
    """uint8 (b, H, W, C) crops from image `start` on, in order."""
    loader = DataLoader(
        _Pixels(dataset),
        batch_sampler=[list(range(i, min(i + CHUNK, len(dataset)))) for i in range(start, len(dataset), CHUNK)],
        num_workers=num_workers,
        collate_fn=_unchanged,
        generator=torch.Generator(),  # DataLoader would draw its workers' seed from the global generator
    )
    for pixels in loader:
        if isinstance(pixels, Exception):
            raise pixels
        yield pixels


def _unchanged(pixels: Any) -> Any:
    return pixels
