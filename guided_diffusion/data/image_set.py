"""Sets of images on disk, of every format: the one reader of training, sampling and evaluation."""

import logging
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from .config import MODES, DataConfig, Labels, Mode, Window
from .decoder import DecodedImages, x0_of
from .formats import EXPECTED, open_stored, opened_once
from .formats.storage import CENTER_CROP, NO_LABEL, EncodedImages, ImageArrays, StoredImages
from .formats.tree import files_sha256
from .headers import Headers, common_mode, mode_with_channels, read_headers
from .labels import renumbered
from .values import preprocessing

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
    """Images of one shape in the fixed order of their storage; class folders: classes by name, then files by name.

    `images[index]` is `(x0, label)`, x0 float32 (C, H, W) in [-1, 1]. Reading raises DamagedImageError for a damaged
    image, ValueError for damaged arrays, and OSError where the storage fails.
    """

    path: Path
    format: str
    """Its name in the table of formats."""
    source: DecodedImages | ImageArrays
    shape: tuple[int, int, int]
    """(H, W, C) of every image."""
    labels: Tensor
    """(N,) int64, -1 for an image without one; where training learns a table's numbers, these: (N, K) float32."""
    class_names: tuple[str, ...]
    """Names of the labels; empty where the storage does not tell."""
    manifest: Mapping[str, Any] | None = None
    """The manifest of samples that this library made."""
    resize: str = "none"
    """The resizing of images of another size, in words."""
    skipped: tuple[Path, ...] = ()
    """Images with a broken header, which are left out."""
    stored: StoredImages | None = None
    """The record of their storage."""
    headers: Headers | None = None
    """The headers of pictures; None for arrays."""
    labelled_by: Labels | None = None
    """As `DataConfig.labels`."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return x0_of(self.pixels(index)), int(self.labels[index])

    @property
    def image_size(self) -> int:
        return self.shape[0]

    @property
    def channels(self) -> int:
        return self.shape[2]

    @property
    def mode(self) -> Mode:
        return MODES[self.channels]

    @property
    def window(self) -> Window | None:
        """As `DataConfig.window`."""
        return self.source.window if isinstance(self.source, DecodedImages) else None

    @property
    def is_labelled(self) -> bool:
        """True if any image has a label."""
        return bool((self.labels != NO_LABEL).any())

    @property
    def empty_classes(self) -> tuple[int, ...]:
        """Labels of the classes that have no images."""
        return tuple(np.setdiff1d(np.arange(len(self.class_names)), self.labels.numpy()).tolist())

    @property
    def paths(self) -> tuple[Path, ...]:
        """The place of each picture, those of an archive below its path; built anew at every call."""
        return tuple(map(self._pictures.path, range(len(self))))

    @property
    def _pictures(self) -> DecodedImages:
        assert isinstance(self.source, DecodedImages), f"{self.path} holds arrays"
        return self.source

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """One image, (H, W, C) 0..255: the centre crop, not mirrored."""
        if isinstance(self.source, DecodedImages):
            return self.source.pixels(index)
        return next(self.stream([index]))[0]

    def augmented(self, index: int, rng: random.Random) -> NDArray[np.uint8]:
        """One picture of a training set, (H, W, C) 0..255: crop and mirror as configured, drawn from `rng`."""
        return self._pictures.augmented(index, rng)

    def stream(self, indices: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """The images (n, H, W, C) of ascending indices, in pieces of whatever length suits the storage."""
        for images in self.source.stream(indices) if len(indices) else ():
            if images.shape[1:] != self.shape:
                raise ValueError(
                    f"{self.path} mixes images of shape {self.shape} and {images.shape[1:]} (height, width, channels)"
                )
            yield images

    def read(self, indices: Sequence[int]) -> Tensor:
        """The images (B, C, H, W) uint8 of ascending indices, at least one; all of them are in memory at once."""
        return _channels_first(chain.from_iterable(self.stream(indices)))

    def num_batches(self, batch_size: int) -> int:
        """Number of batches, of which the last may be short."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        return -(-len(self) // batch_size)

    def batches(
        self, batch_size: int, *, first: int = 0, last: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Batches number first..last-1: images (B, C, H, W) uint8 and labels (B,) int64, None if no image has one.

        Batch j holds the images [j * batch_size, (j + 1) * batch_size), whichever range is asked for, so that processes
        which share a set see the very batches that one process would. At most a batch and a piece are in memory.
        """
        last = self.num_batches(batch_size) if last is None else last
        indices = range(first * batch_size, min(last * batch_size, len(self)))
        images = chain.from_iterable(self.stream(indices))
        for start in indices[::batch_size]:
            labels = self.labels[start : start + batch_size].clone() if self.is_labelled else None
            yield _channels_first(islice(images, batch_size)), labels

    def files_sha256(self) -> str:
        """`tree.files_sha256` of the files that hold the images: of samples the shards alone, since reports come to lie
        beside them."""
        place = _place(self.path)
        if place is None:
            raise FileNotFoundError(f"{self.path} is gone: it was moved or removed after it was opened")
        if self.manifest is None:
            return files_sha256(place)
        shards = [(shard.name, files_sha256(shard)) for shard in sorted(place.glob("shard-*.npz"))]
        return sha256(repr(shards).encode()).hexdigest()


def open_image_set(
    path: Path,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    labels: Labels | None = None,
    window: Window | None = None,
) -> ImageSet:
    """The images at a path with whatever labels they have, as evaluation and upsampling read them.

    image_size: side of the published centre crop of pictures, pixels; stored arrays of another size are refused. None
        takes the images as they are.
    channels: 1, 3 or 4. Pictures are converted, colour never to grey; None takes their mode, which must be one.
    labels, window: as in `DataConfig`; None takes class folders if there are any, and all 16 bits.
    All processes of a run open a set at the same time: one reads, and tells the others.

    Raises:
        FileNotFoundError: nothing at the path.
        ValueError: no images, damaged files, or images that do not fit.
    """
    return opened_once(path, lambda: _image_set(path, image_size, channels, labels, window))


def _image_set(
    path: Path, image_size: int | None, channels: int | None, labels: Labels | None, window: Window | None
) -> ImageSet:
    if _place(path) is None:
        raise FileNotFoundError(f"there is nothing at {path}; expected {EXPECTED}")
    stored = open_stored(path, labels, only_of_trees=True)
    source, resize, headers = stored.images, "none", None
    if not isinstance(source, ImageArrays):
        headers = read_headers(stored, source, path, None, window=window)
        mode = mode_with_channels(headers, source, path, channels)
        source = DecodedImages(
            files=source, entries=range(len(stored.labels)), labels=stored.labels, mode=mode, size=image_size,
            window=window,
        )  # fmt: skip
        crop = "" if image_size is None else CENTER_CROP.format(size=image_size)
        used = window if headers.deep else None
        resize = preprocessing(stored.resize, crop, window=used, turned=headers.turned) or "none"
    images = ImageSet(
        path=path, format=stored.format, source=source, shape=source.shape, labels=torch.from_numpy(stored.labels),
        class_names=stored.class_names, manifest=stored.manifest, resize=resize, stored=stored, headers=headers,
        labelled_by=labels,
    )  # fmt: skip
    _refuse_misfits(images, image_size=image_size, channels=channels)
    return images


def open_training_set(
    config: DataConfig, *, image_size: int, class_names: Sequence[str] | None = None, is_labelled: bool = True
) -> ImageSet:
    """Pictures as training reads them; every header is read once, and kept for the next start.

    All processes of a run open a set at the same time: one reads, and tells the others.
    image_size: side of the crops, in pixels.
    class_names: the classes, in the order of their labels; None takes those that the data have, class folders by name.
        Held-out data are opened with the names of the training data, and may lack some of them.
    is_labelled: False opens the pictures without labels, whatever `config.labels` says.

    Raises:
        FileNotFoundError: nothing at the path.
        OSError: a file cannot be read, for no fault of its own.
        ImportError: the library that the format needs is not installed.
        ValueError: the data, a file or the mixture of modes cannot be used.
    """
    if image_size < 1:
        raise ValueError(f"image_size is a number of pixels, at least 1, not {image_size}")
    return opened_once(config.path, lambda: _training_set(config, image_size, class_names, is_labelled))


def _training_set(
    config: DataConfig, image_size: int, class_names: Sequence[str] | None, is_labelled: bool
) -> ImageSet:
    stored, files = open_pictures(config.path, config.labels if is_labelled else None)
    labels, names = stored.labels, stored.class_names
    if not is_labelled:
        labels, names = np.full(len(labels), NO_LABEL), ()
        others = {kind: [file for file in left if file != str(config.labels)] for kind, left in stored.left_out.items()}
        stored = replace(stored, left_out={kind: left for kind, left in others.items() if left})
    if class_names is not None:
        labels, names = renumbered(labels, names, class_names, path=config.path), tuple(class_names)
    headers = read_headers(stored, files, config.path, config, window=config.window)
    entries, skipped = range(len(labels)), tuple(map(files.path, headers.having("")))
    if skipped:
        entries = np.setdiff1d(entries, headers.having(""))
        lost = np.setdiff1d(labels, labels[entries])
        if lost.size:
            name = names[lost[0]]
            raise ValueError(f"every image of the class '{name}' is broken; repair its images or remove the class")
        _logger.warning("%d unreadable files of %s are left out, the first %s", len(skipped), config.path, skipped[0])
        labels = labels[entries]
    mode = common_mode(headers, files, config.path, in_training=True) if config.mode == "auto" else config.mode
    source = DecodedImages(
        files=files, entries=entries, labels=labels, mode=mode, size=image_size, config=config, window=config.window
    )
    return ImageSet(
        path=config.path, format=stored.format, source=source, shape=source.shape, class_names=names,
        labels=torch.from_numpy(source.labels), skipped=skipped, stored=stored, headers=headers,
        labelled_by=config.labels,
    )  # fmt: skip


def open_pictures(path: Path, labels: Labels | None) -> tuple[StoredImages, EncodedImages]:
    """The record of the pictures at a path, and the pictures; arrays are refused. labels: as `DataConfig.labels`."""
    stored = open_stored(path, labels)
    if isinstance(stored.images, ImageArrays):
        raise ValueError(
            f"{path} holds stored arrays ({stored.format}), which evaluation and upsampling read; here, give pictures "
            f"(export_samples.py writes samples as a folder of PNGs)"
        )
    return stored, stored.images


def _channels_first(images: Iterable[NDArray[np.uint8]]) -> Tensor:
    return rearrange(torch.from_numpy(np.stack(list(images))), "b h w c -> b c h w").contiguous()


def _place(path: Path) -> Path | None:
    """The file or directory at a path, or the file that it leads into."""
    return path if path.exists() else next((parent for parent in path.parents if parent.is_file()), None)


def _refuse_misfits(images: ImageSet, *, image_size: int | None, channels: int | None) -> None:
    """Refuse stored arrays of another size or number of channels, and fractions that were cut to integers."""
    height, width, found_channels = images.shape
    if image_size is not None and (height, width) != (image_size, image_size):
        raise ValueError(
            f"{images.path} holds images of {height}x{width} pixels where {image_size}x{image_size} were expected; "
            f"stored arrays are not resized, make them at {image_size} pixels"
        )
    if channels is not None and found_channels != channels:
        raise ValueError(f"{images.path} holds images with {found_channels} channels where {channels} were expected")
    if images.manifest is not None:  # pixels from `to_uint8`
        return
    first = images.read(range(min(16, len(images))))  # enough for a wrong range to show
    if first.max() <= 1:
        raise ValueError(
            f"the first {len(first)} images of {images.path} are all but black: no value of 0..255 is above "
            f"{int(first.max())}; if they were 0..1 before they became uint8, multiply by 255 before that"
        )
