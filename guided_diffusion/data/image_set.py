"""Images on disk as a dataset: what is wrong with them, their order, labels and crops.

Where they lie is a matter of `storage.py` and its kinds, pixels are `decoding.py`'s; which entry comes when is
`batches.py`'s.
"""

import logging
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..diffusion.images import from_uint8
from .crops import CHANNELS, DamagedImageError, center_crop, damage_named, decoded, random_crop
from .headers import common_mode, header_modes, stopped
from .kinds import Labels, open_labelled_images
from .storage import LabelledImages, Storage

_LARGEST_CROP = 1 / 0.8
"""The largest shorter side that a crop resizes to, in units of its own."""
_DRAFT_FACTOR = 4

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Images and their classes. The image size is the network's and is not set here."""

    path: Path
    """What holds the images. A folder with one directory per class, `path/<class>/**/*.jpg` (jpeg, png, gif, bmp, webp;
    any case). A .zip of such a folder, or a folder in it, `data.zip/train`. A .tar, or a folder of .tar, of WebDataset
    samples, KEY.jpg beside KEY.cls. A Hugging Face dataset: `hf:NAME`, `hf:NAME:SPLIT`, or the directory that its
    save_to_disk or its Parquet files made. A directory that scripts/prepare_data.py made."""
    labels: Labels = "folders"
    """Of the images in folders and zips. folders: the directory. filenames: the name up to the first "_", as published.
    Else a table, looked for below `path` first: .csv with the columns file,label, or .json, {"FILE": LABEL, ..} or
    {"labels": [["FILE", LABEL], ..]}; FILE is relative to `path`, and whole numbers are class numbers, anything else
    names. Of a Hugging Face dataset: which ClassLabel column, if there are several."""
    mode: Literal["auto", "L", "RGB"] = "auto"
    """Grey (L, one channel) or colour (RGB, three). auto: what the files are, provided that they agree."""
    crop: Literal["center", "random"] = "center"
    """The published square crops. random: shorter side scaled to 1..1.25 times the image size (ADM's classifiers)."""
    flip: bool = False
    """Mirror left to right with probability one half."""
    decode: Literal["exact", "fast"] = "exact"
    """exact: the published pixels, to the bit. fast: JPEGs are decoded at 1/2, 1/4 or 1/8 of their size while that is 4
    times the needed side, so that photographs gain by it at small sizes only. For 100 of ImageNet (median shorter side
    372 pixels) at 32 pixels: 1.7 times as fast, PSNR against exact 41.6 dB, in the worst 33.0 dB. At 64 pixels, where 4
    of them are scaled: 1.0 to 1.1 times, 43.3 dB. At 128 pixels none is (python benchmarks/decode.py --images DIR)."""
    on_error: Literal["stop", "skip"] = "stop"
    """A broken image ends the run, naming it; or it is done without, and named. Pixels cut short behind a sound header
    are found when they are needed. A file that cannot be read for other reasons always ends the run."""
    num_workers: int = 2
    """Processes that decode images beside each training process; 0 decodes in the training process itself."""

    def __post_init__(self) -> None:
        if self.num_workers < 0:
            raise ValueError(f"data.num_workers is a number of processes, 0 or more, not {self.num_workers}")


class ImageDataset(Dataset[tuple[Tensor, int, int]]):
    """Labelled images in the fixed order of their storage; class folders: classes by name, then entries by name.

    `dataset[index]` is `(x0, label)`: the centre crop, not mirrored. `dataset[index, counter]` is `(x0, label,
    counter)`: crop and mirror as configured, whatever is random about them a pure function of `(seed, counter)`, so
    that a sample's pixels do not depend on which process makes it or when. x0 is float32 (C, S, S) in [-1, 1].

    Made by `open_dataset`. Reading an item raises DamagedImageError or OSError as `read_image` does; with on_error
    "skip" the next readable image of the same class, cyclically, stands in for a damaged one, and the log says so once
    per file and process.
    """

    def __init__(
        self,
        *,
        config: DataConfig,
        image_size: int,
        mode: Literal["L", "RGB"],
        class_names: tuple[str, ...],
        labels: Tensor,
        storage: Storage,
        entries: NDArray[np.int64],
        skipped: tuple[Path, ...],
        seed: int,
    ) -> None:
        """entries: which image of the storage each item is; labels: of the items."""
        self.config, self.image_size, self.seed = config, image_size, seed
        self.mode: Literal["L", "RGB"] = mode
        self.class_names, self.labels, self.skipped = class_names, labels, skipped
        self._storage, self._entries = storage, entries
        self._warned: set[Path] = set()

    @property
    def channels(self) -> int:
        return CHANNELS[self.mode]

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where all images lie, item by item, those of an archive below its path; built anew at every call."""
        return tuple(self._path(index) for index in range(len(self)))

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Images per class, aligned with `class_names`; zero for a class without any."""
        return tuple(torch.bincount(self.labels, minlength=len(self.class_names)).tolist())

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...
    @overload
    def __getitem__(self, index: tuple[int, int]) -> tuple[Tensor, int, int]: ...
    def __getitem__(self, index: int | tuple[int, int]) -> tuple[Tensor, int] | tuple[Tensor, int, int]:
        if isinstance(index, tuple):
            index, counter = index
            return _x0(self._augmented(index, counter)), int(self.labels[index]), counter
        return _x0(self.pixels(index)), int(self.labels[index])

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """The centre crop before it becomes x0: (S, S, C), 0..255. Raises as reading an item does."""
        return center_crop(self._image(index), self.image_size)

    def _augmented(self, index: int, counter: int) -> NDArray[np.uint8]:
        image = self._image(index)
        rng = random.Random(f"{self.seed}:{counter}")  # a string is hashed whole, so that neighbours are unrelated
        if self.config.crop == "random":
            pixels = random_crop(image, self.image_size, rng=rng)
        else:
            pixels = center_crop(image, self.image_size)
        return pixels[:, ::-1] if self.config.flip and rng.random() < 0.5 else pixels

    def _image(self, index: int) -> Image.Image:
        for candidate in self._class_from(index):
            path = self._path(candidate)
            try:
                return self._decoded(candidate)
            except DamagedImageError as damage:
                if self.config.on_error == "stop":
                    raise stopped(damage) from damage
                if path not in self._warned:
                    self._warned.add(path)
                    _logger.warning("%s; the next image of its class is used instead", damage)
        raise DamagedImageError(
            f"no image of the class '{self.class_names[int(self.labels[index])]}' in {self.config.path} can be "
            f"decoded; repair or remove them"
        )

    def _decoded(self, index: int) -> Image.Image:
        entry = int(self._entries[index])
        with _missing_root_named(self._storage), damage_named(self._path(index)), self._storage.open(entry) as file:
            return decoded(file, mode=self.mode, draft_side=self._draft_side)

    def _class_from(self, index: int) -> Iterator[int]:
        """`index`, then the other entries of its class, cyclically."""
        yield index
        members = torch.nonzero(self.labels == self.labels[index]).flatten()
        yield from members[members > index].tolist()
        yield from members[members < index].tolist()

    def _path(self, index: int) -> Path:
        return self._storage.path(int(self._entries[index]))

    @property
    def _draft_side(self) -> int | None:
        if self.config.decode == "exact":
            return None
        largest = _LARGEST_CROP if self.config.crop == "random" else 1
        return _DRAFT_FACTOR * math.ceil(self.image_size * largest)


@contextmanager
def _missing_root_named(storage: Storage) -> Iterator[None]:
    """A file that vanished with everything around it is a matter of the folder: unmounted, moved or removed."""
    try:
        yield
    except FileNotFoundError as lost:
        if storage.root is None or storage.root.exists():
            raise
        raise FileNotFoundError(
            lost.errno,
            f"the data, {storage.root}, are gone (moved, removed or unmounted?): {lost.strerror}",
            lost.filename,
        ) from lost


def open_dataset(
    config: DataConfig, *, image_size: int, class_names: Sequence[str] | None = None, seed: int = 0
) -> ImageDataset:
    """Lists the images, reads every header once (about a minute for ImageNet) and settles the mode.

    image_size: side of the crops, in pixels.
    class_names: the classes, in the order of their labels; None takes those that the data have, class folders by name.
        Held-out data are opened with the names of the training data, and may lack some of them.
    seed: of the random crops and mirrors.
    Entries whose name begins with a dot are ignored.

    Raises:
        FileNotFoundError: the path does not exist.
        OSError: a file cannot be read, for no fault of its own.
        ImportError: data of a kind that needs a library which is not installed.
        ValueError: the data, a file or the mixture of modes cannot be used; the message says which and what to do.
    """
    if image_size < 1:
        raise ValueError(f"image_size is a number of pixels, at least 1, not {image_size}")
    found = open_labelled_images(config.path, labels=config.labels)
    labels, class_names = _relabelled(config.path, found, class_names)
    modes, skipped = _modes(found, config)
    if skipped:
        _logger.warning("%d unreadable files of %s are left out, the first %s", len(skipped), config.path, skipped[0])
    entries = np.array([entry for entry, mode in enumerate(modes) if mode is not None], dtype=np.int64)
    _refuse_lost_classes(class_names, before=labels, after=labels[entries])
    return ImageDataset(
        config=config,
        image_size=image_size,
        mode=common_mode(found.storage, config.path, modes) if config.mode == "auto" else config.mode,
        class_names=class_names,
        labels=torch.from_numpy(labels[entries]),
        storage=found.storage,
        entries=entries,
        skipped=skipped,
        seed=seed,
    )


def _relabelled(
    path: Path, found: LabelledImages, imposed: Sequence[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels and class names as found, or with the numbers that the imposed names give."""
    if imposed is None:
        return found.labels, found.class_names
    if len(set(imposed)) < len(imposed):
        raise ValueError(f"class names must differ from each other: {', '.join(imposed)}")
    number_of = {name: number for number, name in enumerate(imposed)}
    occurring = np.unique(found.labels).tolist()
    unknown = [found.class_names[label] for label in occurring if found.class_names[label] not in number_of]
    if unknown:
        known = ", ".join([*imposed[:10], ".."] if len(imposed) > 10 else imposed)
        raise ValueError(
            f"{path} holds {len(unknown)} classes, '{unknown[0]}' for one, that are not among the {len(imposed)} asked "
            f"for ({known}); rename or remove these classes, or give data of the same classes"
        )
    new_numbers = np.array([number_of.get(name, -1) for name in found.class_names], dtype=np.int64)
    return new_numbers[found.labels], tuple(imposed)


def _modes(found: LabelledImages, config: DataConfig) -> tuple[list[str | None], tuple[Path, ...]]:
    """Pillow's mode of each image, None if it is left out, and the files left out."""
    if found.mode is not None:
        return [found.mode] * len(found.labels), ()
    return header_modes(found.storage, config.path, on_error=config.on_error)


def _refuse_lost_classes(class_names: Sequence[str], *, before: NDArray[np.int64], after: NDArray[np.int64]) -> None:
    lost = np.setdiff1d(before, after)
    if lost.size:
        name = class_names[int(lost[0])]
        raise ValueError(f"every image of the class '{name}' is broken; repair its images or remove the class")


def _x0(pixels: NDArray[np.uint8]) -> Tensor:
    return from_uint8(torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))))
