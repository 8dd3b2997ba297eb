"""Sets of images, read as a stream: sample shards, a published npz batch, or a folder of pictures.

Owns recognising and checking a source. What is computed from the pixels is decided elsewhere.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from guided_diffusion.data.decoding import CHANNELS, center_crop, read_image, read_mode
from guided_diffusion.data.listing import EXTENSIONS
from guided_diffusion.data.npz import npy_header, npy_rows, npz_members
from guided_diffusion.data.shards import DAMAGED_FILE_ERRORS, NO_LABEL, iterate_shards, read_labels, read_manifest

Piece = tuple[np.ndarray, np.ndarray | None]
"""Consecutive images (n, H, W, C) uint8 and their labels (n,) int64, if the source has any."""


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """A set of `num_images` images of one shape (H, W, C), in a fixed order.

    stream(start, stop) yields the images [start, stop) in pieces of whatever length suits the storage. labels are those
    of all images, (N,) int64, -1 for an image without one; None where no image has one. class_names is what they index,
    where the source tells; manifest describes samples of ours; resize says in words what is done to images of another
    size.
    """

    path: Path
    kind: Literal["shards", "npz", "folder"]
    num_images: int
    shape: tuple[int, int, int]
    stream: Callable[[int, int], Iterator[Piece]]
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    manifest: dict[str, Any] | None = None
    resize: str = "none"


def open_images(path: Path, *, size: int | None = None, channels: int | None = None) -> ImageSource:
    """The images at `path`: a directory of sample shards, an npz holding `arr_0`, or a (class) folder of pictures.

    size: side in pixels. Pictures of a folder get the published centre crop to it; stored arrays of another size are
    refused. None takes the images as they are. channels: 1 or 3; pictures of a folder are converted (grey to colour
    only), None takes those of the first. Only the beginning is read here.

    Raises FileNotFoundError for a missing path, ValueError for one that holds no images, for damaged files, for arrays
    of another type, size or number of channels.
    """
    if path.is_dir():
        holds_shards = (path / "manifest.json").exists() or any(path.glob("shard-*.npz"))
        source = _open_shards(path) if holds_shards else _open_folder(path, size=size, channels=channels)
    elif path.is_file() and path.suffix == ".npz":
        source = _open_npz(path)
    elif path.exists():
        raise ValueError(
            f"{path} is no source of images; give a directory of samples, an .npz batch or a folder of pictures"
        )
    else:
        raise FileNotFoundError(
            f"there is nothing at {path}; give a directory of samples, an .npz batch or a folder of pictures"
        )
    height, width, found_channels = source.shape
    if size is not None and (height, width) != (size, size):
        raise ValueError(
            f"{path} holds images of {height}x{width} pixels where {size}x{size} were expected; "
            f"stored arrays are not resized, make them at {size} pixels"
        )
    if channels is not None and found_channels != channels:
        raise ValueError(f"{path} holds images with {found_channels} channels where {channels} were expected")
    return source


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
    for images, labels in _pieces(source, first * batch_size, stop):
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
    return _tensors(*_joined(list(_pieces(source, start, stop))), slice(None))[0]


def num_batches(source: ImageSource, *, batch_size: int) -> int:
    """How many batches a source makes; the last may be short. Raises ValueError unless batch_size is positive."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")
    return -(-source.num_images // batch_size)


def _pieces(source: ImageSource, start: int, stop: int) -> Iterator[Piece]:
    for images, labels in source.stream(start, stop):
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


def _open_shards(path: Path) -> ImageSource:
    manifest = read_manifest(path)

    def stream(start: int, stop: int) -> Iterator[Piece]:
        for shard in iterate_shards(path, start=start, stop=stop):
            yield shard.images, None if labels is None else shard.labels

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
    members = npz_members(path)
    if "arr_0" not in members:
        raise ValueError(
            f"{path} holds no images: expected the array arr_0, found {', '.join(sorted(members)) or 'nothing'}"
        )
    shape, dtype = npy_header(path, "arr_0")
    if dtype != np.uint8 or len(shape) != 4:
        raise ValueError(f"{path} must hold arr_0 as uint8 (N, H, W, C) with values 0..255, got {dtype} {shape}")
    if shape[-1] not in (1, 3):
        raise ValueError(f"{path} must hold images (N, H, W, C) with 1 or 3 channels in the last place, got {shape}")
    if shape[0] == 0:
        raise ValueError(f"{path} holds no images: arr_0 is empty")
    labels = _npz_labels(path, num_images=shape[0]) if "arr_1" in members else None

    def stream(start: int, stop: int) -> Iterator[Piece]:
        for first, images in npy_rows(path, "arr_0", start=start, stop=stop):
            yield images, None if labels is None else labels[first : first + len(images)]

    return ImageSource(
        path=path, kind="npz", num_images=shape[0], shape=_shape(shape[1:]), stream=stream, labels=labels
    )


def _npz_labels(path: Path, *, num_images: int) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            labels = arrays["arr_1"]
    except DAMAGED_FILE_ERRORS as error:
        raise ValueError(f"{path} is damaged: arr_1 cannot be read ({error}); make or fetch it again") from error
    if labels.shape != (num_images,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{path} must hold arr_1 as {num_images} integer labels, got {labels.dtype} {labels.shape}")
    return labels.astype(np.int64)


def _open_folder(path: Path, *, size: int | None, channels: int | None) -> ImageSource:
    files, labels, class_names = _listed(path)
    if channels is None:
        channels = _channels(files[0])
    if channels not in CHANNELS.values():
        raise ValueError(
            f"pictures have 1 or 3 channels, {channels} were asked for; compare {path} with images of 1 or 3"
        )

    def stream(start: int, stop: int) -> Iterator[Piece]:
        for index in range(start, stop):
            image = _read_picture(files[index], size=size, channels=channels)
            if image.shape != shape:
                raise ValueError(
                    f"{files[index]} has {_pixels(image)} pixels but {files[0]} has {_pixels(first)}: "
                    f"a set must have one size; crop them all to one (evaluation does, given image_size)"
                )
            yield image[None], None if labels is None else labels[index : index + 1]

    first = _read_picture(files[0], size=size, channels=channels)
    shape = _shape(first.shape)
    return ImageSource(
        path=path,
        kind="folder",
        num_images=len(files),
        shape=shape,
        stream=stream,
        labels=labels,
        class_names=class_names,
        resize="none"
        if size is None
        else f"published centre crop to {size} px (box halvings, bicubic) where the size differs",
    )


def _listed(path: Path) -> tuple[list[Path], np.ndarray | None, tuple[str, ...] | None]:
    flat = _pictures(path.iterdir())
    inner = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    per_class = {directory.name: _pictures(directory.rglob("*")) for directory in inner}
    filled = [name for name, files in per_class.items() if files]
    if flat and filled:
        raise ValueError(
            f"{path} holds pictures ({flat[0].name}, ...) beside class folders ({filled[0]}, ...); separate them"
        )
    if flat:
        return flat, None, None
    if not filled:
        raise ValueError(
            f"{path} holds no images: neither sample shards nor pictures ({', '.join(EXTENSIONS)}) were found in it"
        )
    labels = np.repeat(np.arange(len(per_class)), [len(files) for files in per_class.values()])
    return [file for files in per_class.values() for file in files], labels, tuple(per_class)


def _pictures(entries: Iterator[Path]) -> list[Path]:
    return sorted(
        entry
        for entry in entries
        if entry.suffix.lower() in EXTENSIONS and not entry.name.startswith(".") and entry.is_file()
    )


def _channels(path: Path) -> int:
    mode = read_mode(path)
    return 1 if mode in ("1", "L", "LA") or mode.startswith("I") else 3


def _read_picture(path: Path, *, size: int | None, channels: int) -> np.ndarray:
    if channels == 1 and _channels(path) == 3:
        raise ValueError(f"{path} is in colour where grey pictures were expected; convert one of the sets")
    image = read_image(path, mode="L" if channels == 1 else "RGB")
    if size is not None and image.size != (size, size):
        return center_crop(image, size)
    return np.array(image).reshape(image.height, image.width, channels)


def _pixels(image: np.ndarray) -> str:
    return f"{image.shape[0]}x{image.shape[1]}"


def _shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    height, width, channels = shape
    return height, width, channels
