"""Pictures of any storage as arrays of one shape: decoded, cropped, and refused where they differ."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .crops import CHANNELS, center_crop, damage_named, decoded, header_mode
from .formats.packed import read_record
from .kinds import Kind
from .storage import Storage

_GREY_MODES = ("1", "L", "LA")
_MOST_READERS = 8
_AT_ONCE = 8
"""Pictures that a thread reads in one go: handing over each by itself costs tiny ones an eighth of their rate."""


@dataclass(frozen=True, kw_only=True)
class PictureSet:
    """The pictures of a storage as uint8 (H, W, C): of the shape of the first one, or squares of `size` pixels.

    Those of another size than `size` get the published centre crop; None: none may have another size than the first.
    """

    storage: Storage
    mode: Literal["L", "RGB"]
    size: int | None

    def read(self, index: int) -> NDArray[np.uint8]:
        """One picture. Grey ones are made coloured, never the reverse.

        Raises:
            ValueError: a picture that cannot be decoded, or a coloured one among grey ones.
        """
        path = self.storage.path(index)
        with damage_named(path), self.storage.open(index) as file:
            has_colour = self.mode == "L" and not is_grey(header_mode(file))
            file.seek(0)
            image = decoded(file, mode=self.mode)
        if has_colour:
            raise ValueError(f"{path} is in colour where grey pictures were expected; convert one of the sets")
        if self.size is not None and image.size != (self.size, self.size):
            return center_crop(image, self.size)
        return np.array(image).reshape(image.height, image.width, CHANNELS[self.mode])

    def stream(self, indices: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Those pictures, in turn.

        Raises:
            ValueError: as `read`, and for one of another size than the first of all.
        """
        first = self.read(0)
        for index, image in zip(indices, _read_ahead(self.read, indices), strict=True):
            if image.shape != first.shape:
                raise ValueError(
                    f"{self.storage.path(index)} has {_pixels(image)} pixels but {self.storage.path(0)} has "
                    f"{_pixels(first)}: a set must have one size; crop them all to one, with --image_size N "
                    f"(evaluate.py: --protocol.image_size N)"
                )
            yield image


def _read_ahead(read: Callable[[int], NDArray[np.uint8]], indices: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
    """What `read` gives for each index, in turn, read by several threads while the caller computes.

    Pillow decodes outside Python's lock: two threads on two cores bring photographs to 256 pixels 1.9 times as fast.
    """

    def several(first: int) -> list[NDArray[np.uint8]]:
        return [read(index) for index in indices[first : first + _AT_ONCE]]

    readers = min(_MOST_READERS, os.cpu_count() or 1)
    waiting: deque[Future[list[NDArray[np.uint8]]]] = deque()
    pool = ThreadPoolExecutor(readers)
    try:
        for first in range(0, len(indices), _AT_ONCE):
            waiting.append(pool.submit(several, first))
            if len(waiting) > readers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:  # also for a caller that wants no more
        pool.shutdown(cancel_futures=True)


def common_mode(storage: Storage, *, channels: int | None) -> Literal["L", "RGB"]:
    """The mode with so many channels; None: that of the first picture.

    Raises:
        ValueError: neither 1 nor 3 channels, or a first picture that cannot be read.
    """
    if channels not in (None, *CHANNELS.values()):
        raise ValueError(
            f"pictures have 1 or 3 channels, {channels} were asked for; compare {storage.path(0)} with images of 1 or 3"
        )
    if channels is None:
        with damage_named(storage.path(0)), storage.open(0) as file:
            return "L" if is_grey(header_mode(file)) else "RGB"
    return "L" if channels == 1 else "RGB"


def is_grey(mode: str) -> bool:
    """Whether Pillow's mode is one of grey pictures."""
    return mode in _GREY_MODES or mode.startswith("I")


def resizing(path: Path, kind: Kind, *, size: int | None) -> str:
    """What is done to pictures of another size than is wanted, in words; prepared ones went through it before."""
    steps: list[str] = []
    if kind == "prepared":
        record = read_record(path)
        decoding = "" if record["decode"] == "exact" else f", JPEGs decoded {record['decode']}"
        steps.append(f"{_crop(record['size'])}{decoding}, when prepared")
    if size is not None:
        steps.append(_crop(size))
    return "; then ".join(steps) or "none"


def _crop(size: int) -> str:
    return f"published centre crop to {size} px (box halvings, bicubic) where the size differs"


def _pixels(image: NDArray[np.uint8]) -> str:
    return f"{image.shape[0]}x{image.shape[1]}"
