"""Sets of images, read as a stream: sample shards, a published npz batch, or pictures of any storage.

Owns recognising a source and cutting it into batches. What is computed from the pixels is decided elsewhere.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from .formats.npy import npy_rows
from .formats.npz import stored_labels, stored_shape
from .formats.samples import NO_LABEL, iterate_shards, read_labels, read_manifest
from .kinds import Kind, kind_of, open_labelled_images
from .listing import files_sha256
from .picture_sets import PictureSet, common_mode, resizing

Piece = tuple[np.ndarray, np.ndarray | None]
"""Consecutive images (n, H, W, C) uint8 and their labels (n,) int64, if the source has any."""

EXPECTED = (
    "a directory of samples, an .npz batch, a folder or a .zip of pictures, WebDataset .tar shards, prepared images or "
    "a saved Hugging Face dataset"
)

_LOOKED_AT = 16
"""Images in whose values a wrong range shows."""


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """A set of `num_images` images of one shape (H, W, C), in a fixed order.

    stream(indices) yields the images of ascending indices, at least one, in pieces of whatever length suits the
    storage; `pieces` checks them. labels are those of all images, (N,) int64, -1 for an image without one; None where
    no image has one. class_names is what they index, where the source tells; manifest describes samples of ours; resize
    says in words what is done to images of another size.
    """

    path: Path
    kind: Literal["shards", "npz"] | Kind
    num_images: int
    shape: tuple[int, int, int]
    stream: Callable[[Sequence[int]], Iterator[Piece]]
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    manifest: dict[str, Any] | None = None
    resize: str = "none"


def open_images(path: Path, *, size: int | None = None, channels: int | None = None) -> ImageSource:
    """The images at `path`: a directory of sample shards, an npz holding `arr_0`, or pictures, which may lie in a
    folder, in a zip or below one (`data.zip/train`), in WebDataset shards, in prepared or in Hugging Face's form.

    Pictures in class folders have labels, those beside one another none. size: side in pixels. Pictures get the
    published centre crop to it; stored arrays of another size are refused. None takes the images as they are. channels:
    1 or 3; pictures are converted (grey to colour only), None takes those of the first. Only labels and the first few
    images are read here.

    Raises FileNotFoundError for a missing path, ValueError for one that holds no images, for damaged files, for arrays
    of another type, size or number of channels, for labels beyond the class names, and for images whose values were
    0..1 when they became integers.
    """
    if _place(path) is None:
        raise FileNotFoundError(f"there is nothing at {path}; give {EXPECTED}")
    if path.is_dir() and ((path / "manifest.json").exists() or any(path.glob("shard-*.npz"))):
        source = _open_shards(path)
    elif path.is_file() and path.suffix == ".npz":
        source = _open_npz(path)
    else:
        source = _open_pictures(path, size=size, channels=channels)
    height, width, found_channels = source.shape
    if size is not None and (height, width) != (size, size):
        raise ValueError(
            f"{path} holds images of {height}x{width} pixels where {size}x{size} were expected; "
            f"stored arrays are not resized, make them at {size} pixels"
        )
    if channels is not None and found_channels != channels:
        raise ValueError(f"{path} holds images with {found_channels} channels where {channels} were expected")
    _refuse_unnamed_labels(source)
    if source.kind != "shards":  # whose pixels come from images.to_uint8
        _refuse_cut_fractions(source)
    return source


def files_fingerprint(source: ImageSource) -> str:
    """Of the names, sizes and times of change of the files that hold a source, as `files_sha256`: all of its directory,
    or its file, or the zip that it lies in; of samples the shards alone, since reports come to lie beside them."""
    place = _place(source.path)
    if place is None:
        raise FileNotFoundError(f"{source.path} is gone: it was moved or removed after it was opened")
    if source.kind == "shards":
        shards = [(shard.name, files_sha256(shard)) for shard in sorted(place.glob("shard-*.npz"))]
        return sha256(repr(shards).encode()).hexdigest()
    return files_sha256(place)


def batches(
    source: ImageSource, *, batch_size: int, first: int = 0, last: int | None = None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Batches number first..last-1 of a source: images (B, C, H, W) uint8 and labels (B,) int64 or None.

    Batch j holds the images [j * batch_size, (j + 1) * batch_size), whichever range is asked for, so that processes
    which share a source see the very batches that one process would. At most a batch and a piece are in memory.
    """
    last = num_batches(source, batch_size=batch_size) if last is None else last
    stop = min(last * batch_size, source.num_images)
    waiting: list[Piece] = []
    for images, labels in pieces(source, range(first * batch_size, stop)):
        waiting.append((images, labels))
        if sum(len(images) for images, _ in waiting) >= batch_size:
            joined, joined_labels = _joined(waiting)
            whole = len(joined) // batch_size * batch_size
            for start in range(0, whole, batch_size):
                yield _tensors(joined, joined_labels, slice(start, start + batch_size))
            waiting = [] if whole == len(joined) else [_cut(joined, joined_labels, slice(whole, None))]
    if waiting:
        yield _tensors(*_joined(waiting), slice(None))


def read_images(path: Path, *, batch_size: int, size: int | None = None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """All images of `path` in batches: uint8 (B, C, H, W) and labels (B,) int64 or None.

    See `open_images` for what is refused.
    """
    return batches(open_images(path, size=size), batch_size=batch_size)


def images_between(source: ImageSource, start: int, stop: int) -> Tensor:
    """The images [start, stop) of a source, (B, C, H, W) uint8; all of them are in memory at once."""
    return _tensors(*_joined(list(pieces(source, range(start, stop)))), slice(None))[0]


def num_batches(source: ImageSource, *, batch_size: int) -> int:
    """How many batches a source makes; the last may be short. Raises ValueError unless batch_size is positive."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")
    return -(-source.num_images // batch_size)


def pieces(source: ImageSource, indices: Sequence[int]) -> Iterator[Piece]:
    """The images of ascending indices, in pieces of whatever length suits the storage.

    Raises ValueError for images of several shapes, and as the storage does.
    """
    for images, labels in source.stream(indices) if len(indices) else ():
        if images.shape[1:] != source.shape:
            raise ValueError(
                f"{source.path} mixes images of shape {source.shape} and {images.shape[1:]} (height, width, channels)"
            )
        yield images, labels


def _cut(images: np.ndarray, labels: np.ndarray | None, rows: slice) -> Piece:
    return images[rows], None if labels is None else labels[rows]


def _joined(pieces: list[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    labels = [labels for _, labels in pieces if labels is not None]
    return np.concatenate([images for images, _ in pieces]), np.concatenate(labels) if labels else None


def _tensors(images: np.ndarray, labels: np.ndarray | None, rows: slice) -> tuple[Tensor, Tensor | None]:
    images, labels = _cut(images, labels, rows)
    in_memory_order = np.ascontiguousarray(rearrange(images, "b h w c -> b c h w"))
    # A one-channel or one-pixel image is contiguous in both orders: then the array is still the source's own, copy it.
    return torch.from_numpy(in_memory_order.copy() if np.shares_memory(in_memory_order, images) else in_memory_order), (
        None if labels is None else torch.from_numpy(labels.copy())
    )


def _place(path: Path) -> Path | None:
    """What holds the images of a path: itself, or the file that it leads into."""
    return path if path.exists() else next((parent for parent in path.parents if parent.is_file()), None)


def _open_shards(path: Path) -> ImageSource:
    manifest = read_manifest(path)

    def stream(indices: Sequence[int]) -> Iterator[Piece]:
        wanted = np.asarray(indices)
        for shard in iterate_shards(path, start=indices[0], stop=indices[-1] + 1):
            rows = _rows(wanted, first=int(shard.ids[0]), length=len(shard.ids))
            if len(rows):
                yield shard.images[rows], None if labels is None else shard.labels[rows]

    first = next(iterate_shards(path))
    stored = read_labels(path)
    labels = stored if (stored != NO_LABEL).any() else None
    names = manifest.get("class_names")
    return ImageSource(
        path=path,
        kind="shards",
        num_images=manifest["num_samples"],
        shape=_shape(first.images.shape[1:]),
        stream=stream,
        labels=labels,
        class_names=None if names is None else tuple(names),
        manifest=manifest,
    )


def _open_npz(path: Path) -> ImageSource:
    num_images, *_ = stored = stored_shape(path)
    labels = stored_labels(path, num_images=num_images)

    def stream(indices: Sequence[int]) -> Iterator[Piece]:
        wanted = np.asarray(indices)
        for first, images in npy_rows(path, "arr_0", start=indices[0], stop=indices[-1] + 1):
            rows = _rows(wanted, first=first, length=len(images))
            if len(rows):
                yield images[rows], None if labels is None else labels[first + rows]

    return ImageSource(path=path, kind="npz", num_images=num_images, shape=stored[1:], stream=stream, labels=labels)


def _rows(wanted: np.ndarray, *, first: int, length: int) -> np.ndarray:
    """Which rows of a piece of `length` images, the first of them number `first`, are among the ascending `wanted`."""
    begin, end = np.searchsorted(wanted, (first, first + length))
    return wanted[begin:end] - first


def _open_pictures(path: Path, *, size: int | None, channels: int | None) -> ImageSource:
    kind = kind_of(path)
    if kind is None:
        raise ValueError(f"{path} is no source of images; give {EXPECTED}")
    found = open_labelled_images(path, labels=None)
    mode = common_mode(found.storage, channels=channels)
    pictures = PictureSet(storage=found.storage, mode=mode, size=size)
    labels = found.labels if found.class_names else None

    def stream(indices: Sequence[int]) -> Iterator[Piece]:
        for index, image in zip(indices, pictures.stream(indices), strict=True):
            yield image[None], None if labels is None else labels[index : index + 1]

    return ImageSource(
        path=path,
        kind=kind,
        num_images=len(found.storage),
        shape=_shape(pictures.read(0).shape),
        stream=stream,
        labels=labels,
        class_names=found.class_names or None,
        resize=resizing(path, kind, size=size),
    )


def _refuse_unnamed_labels(source: ImageSource) -> None:
    if source.labels is None or source.class_names is None or source.labels.max() < len(source.class_names):
        return
    raise ValueError(
        f"an image of {source.path} has label {source.labels.max()}, but there are only {len(source.class_names)} "
        f"class names, for labels from 0; images and names do not belong together: make them again"
    )


def _refuse_cut_fractions(source: ImageSource) -> None:
    first = images_between(source, 0, min(_LOOKED_AT, source.num_images))
    if first.max() <= 1:
        raise ValueError(
            f"the first {len(first)} images of {source.path} are all but black: no value of 0..255 is above "
            f"{int(first.max())}; if they were 0..1 before they became uint8, multiply by 255 before that"
        )


def _shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    height, width, channels = shape
    return height, width, channels
