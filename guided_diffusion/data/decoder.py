"""Encoded images as arrays of one shape: decoded, converted to one mode and cropped."""

import logging
import os
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..diffusion.images import from_uint8
from . import crops
from .config import CHANNELS, DataConfig, Mode, Window
from .crops import DamagedImageError
from .formats.storage import EncodedImages

_MOST_READERS = 8
_AT_ONCE = 8
"""Images that a thread reads in one go: handing over each by itself costs tiny ones an eighth of their rate."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedImages:
    """Encoded images as uint8 (H, W, C). Reading raises DamagedImageError, or OSError where the storage fails.

    With on_error "skip" the next readable image of the same class, cyclically, stands in for a damaged one, and the log
    says so once per file and process.
    """

    files: EncodedImages
    entries: NDArray[np.int64] | range
    """(N,) which of the files each image is."""
    labels: NDArray[np.int64]
    """(N,) class numbers."""
    mode: Mode
    size: int | None
    """Side of the crops, pixels; None: images as they are, all of one size."""
    config: DataConfig | None = None
    """Settings of a training set: crop, flip and on_error; None: centre crops, and damage is an error."""
    window: Window | None = None
    """As `DataConfig.window`."""
    _warned: set[Path] = field(default_factory=set[Path], init=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every image."""
        if self.size is not None:
            return self.size, self.size, CHANNELS[self.mode]
        height, width, channels = self.pixels(0).shape
        return height, width, channels

    def path(self, index: int) -> Path:
        """The place of an image, that within an archive below its path."""
        return self.files.path(int(self.entries[index]))

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """The centre crop, or the whole image where no size is asked for."""
        image = self._image(index)
        if self.size is None:
            return np.array(image).reshape(image.height, image.width, CHANNELS[self.mode])
        return crops.center_crop(image, self.size)

    def augmented(self, index: int, rng: random.Random) -> NDArray[np.uint8]:
        """The image as a training sees it: crop and mirror as configured, drawn from `rng`."""
        assert self.size is not None
        assert self.config is not None
        image, random = self._image(index), self.config.crop == "random"
        pixels = crops.random_crop(image, self.size, rng=rng) if random else crops.center_crop(image, self.size)
        return pixels[:, ::-1] if self.config.flip and rng.random() < 0.5 else pixels

    def stream(self, indices: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """The images (1, H, W, C) of these indices in turn, decoded ahead by several threads; all have one size."""
        shape = self.shape
        for index, pixels in zip(indices, _read_ahead(self.pixels, indices), strict=True):
            if pixels.shape != shape:
                found, first = (f"{height}x{width}" for height, width, _ in (pixels.shape, shape))
                raise ValueError(
                    f"{self.path(index)} has {found} pixels but {self.path(0)} has {first}: a set must have one size; "
                    f"crop them all to one, with --image_size N (evaluate.py: --protocol.image_size N)"
                )
            yield pixels[None]

    def _image(self, index: int) -> Image.Image:
        candidate = index
        while True:
            try:
                return self._decoded(candidate)
            except DamagedImageError as damage:
                refuse_unless_skipped(damage, self.config)
                path = self.path(candidate)
                if path not in self._warned:
                    self._warned.add(path)
                    _logger.warning("%s; the next image of its class is used instead", damage)
            members = np.flatnonzero(self.labels == self.labels[index])
            candidate = int(members[np.searchsorted(members, candidate, side="right") % len(members)])
            if candidate == index:
                raise DamagedImageError(
                    f"no image of the class of {self.path(index)} can be decoded; repair these images or remove them"
                )

    def _decoded(self, index: int) -> Image.Image:
        try:
            with crops.damage_named(self.path(index)), self.files.open(int(self.entries[index])) as file:
                return crops.decoded(file, mode=self.mode, window=self.window)
        except FileNotFoundError as lost:
            if self.config is None or self.config.path.exists():
                raise
            gone = f"the data, {self.config.path}, are gone (moved, removed or unmounted?): {lost.strerror}"
            raise FileNotFoundError(lost.errno, gone, lost.filename) from lost


def x0_of(pixels: NDArray[np.uint8]) -> Tensor:
    """An image (H, W, C) 0..255 as float32 (C, H, W) in [-1, 1]."""
    return from_uint8(torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))))


def refuse_unless_skipped(damage: DamagedImageError, config: DataConfig | None) -> None:
    """Refuse a damaged image as the settings of its set say; None: of any other use than training."""
    if config is None:
        raise DamagedImageError(f"{damage}; {damage.remedy}") from damage
    if config.on_error == "stop":
        advice = f"{damage.remedy}, or pass --data.on_error skip to do without such files"
        raise DamagedImageError(f"{damage}; {advice}") from damage


def _read_ahead(read: Callable[[int], NDArray[np.uint8]], indices: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
    """The result of `read` for each index, in turn, read by several threads while the caller computes.

    Pillow decodes outside Python's lock: two threads on two cores bring photographs to 256 pixels 1.9 times as fast.
    """
    readers = min(_MOST_READERS, os.cpu_count() or 1)
    waiting: deque[Future[list[NDArray[np.uint8]]]] = deque()
    with ThreadPoolExecutor(readers) as pool:
        for first in range(0, len(indices), _AT_ONCE):
            waiting.append(pool.submit(lambda some: [*map(read, some)], indices[first : first + _AT_ONCE]))
            if len(waiting) > readers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
