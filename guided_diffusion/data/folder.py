"""ImageNet-style class folders as a dataset: what is in them, what is wrong with them, their order and labels.

Pixels are `decoding.py`'s; which entry comes when is `batches.py`'s. File names are one packed array, because reference
counts would, bit by bit, copy a million strings into every worker process.
"""

import logging
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from guided_diffusion.data.decoding import CHANNELS, DamagedImageError, center_crop, random_crop, read_image, read_mode
from guided_diffusion.data.listing import class_directories, class_images
from guided_diffusion.images import from_uint8

_GREY_MODES = ("1", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N")
# Headers are read at about 16,000 files a second in one thread (6,000 in four threads); a shorter wait needs no bar.
_FILES_WORTH_A_BAR = 20_000

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """A folder of images whose directories are the classes. The image size is the network's and is not set here."""

    path: Path
    """Folder with one directory per class, `path/<class>/**/*.jpg` (jpeg, png, gif, bmp, webp; any case)."""
    mode: Literal["auto", "L", "RGB"] = "auto"
    """Grey (L, one channel) or colour (RGB, three). auto: what the files are, provided that they agree."""
    crop: Literal["center", "random"] = "center"
    """The published square crops. random: shorter side scaled to 1..1.25 times the image size (ADM's classifiers)."""
    flip: bool = False
    """Mirror left to right with probability one half."""
    on_error: Literal["stop", "skip"] = "stop"
    """A broken file ends the run, naming it; or it is done without, and named."""
    num_workers: int = 2
    """Processes that decode images beside each training process; 0 decodes in the training process itself."""


class ClassFolder(Dataset[tuple[Tensor, int, int]]):
    """The images of a class folder, in a fixed order: classes by name, then each directory's entries by name.

    `folder[index]` is `(x0, label)`: the centre crop, not mirrored. `folder[index, counter]` is `(x0, label, counter)`:
    crop and mirror as configured, whatever is random about them a pure function of `(seed, counter)`, so that a
    sample's pixels do not depend on which process makes it or when. x0 is float32 (C, S, S) in [-1, 1].

    Made by `open_class_folder`. Reading an item raises DamagedImageError or OSError as `read_image` does; with on_error
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
        relative_paths: Sequence[str],
        skipped: tuple[Path, ...],
        seed: int,
    ) -> None:
        self.config, self.image_size, self.seed = config, image_size, seed
        self.mode: Literal["L", "RGB"] = mode
        self.class_names, self.labels, self.skipped = class_names, labels, skipped
        self._relative_paths = np.array([os.fsencode(path) for path in relative_paths])
        self._warned: set[Path] = set()

    @property
    def channels(self) -> int:
        return CHANNELS[self.mode]

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files, entry by entry; built anew at every call."""
        return tuple(self._path(index) for index in range(len(self)))

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Images per class, aligned with `class_names`; zero for a class this folder lacks."""
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
        return _x0(center_crop(self._image(index), self.image_size)), int(self.labels[index])

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
                return read_image(path, mode=self.mode)
            except DamagedImageError as damage:
                if self.config.on_error == "stop":
                    raise _stopped(damage) from damage
                if path not in self._warned:
                    self._warned.add(path)
                    _logger.warning("%s; the next image of its class is used instead", damage)
        raise DamagedImageError(
            f"no image of the class '{self.class_names[int(self.labels[index])]}' in {self.config.path} can be "
            f"decoded; repair its images or remove its folder"
        )

    def _class_from(self, index: int) -> Iterator[int]:
        """`index`, then the other entries of its class, cyclically."""
        yield index
        members = torch.nonzero(self.labels == self.labels[index]).flatten()
        yield from members[members > index].tolist()
        yield from members[members < index].tolist()

    def _path(self, index: int) -> Path:
        return self.config.path / os.fsdecode(self._relative_paths[index])


def open_class_folder(
    config: DataConfig, *, image_size: int, class_names: Sequence[str] | None = None, seed: int = 0
) -> ClassFolder:
    """Lists the folder, reads every header once (about a minute for ImageNet) and settles the mode.

    image_size: side of the crops, in pixels.
    class_names: the classes, in the order of their labels; None takes the sorted names of the directories. Held-out
        data is opened with the names of the training data, and may lack some of them.
    seed: of the random crops and mirrors.
    Entries whose name begins with a dot are ignored.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: the folder, a file or the mixture of modes cannot be used; the message says which and what to do.
    """
    if image_size < 1:
        raise ValueError(f"image_size is a number of pixels, at least 1, not {image_size}")
    directories = class_directories(config.path)
    class_names = _settled_class_names(config.path, directories, class_names)
    listed = [(name, f"{name}{os.sep}{file}") for name in directories for file in class_images(config.path / name)]
    mode_of, skipped = _header_modes(config, [file for _, file in listed])
    if skipped:
        _logger.warning("%d unreadable files of %s are left out, the first %s", len(skipped), config.path, skipped[0])
    kept = [(name, file) for name, file in listed if file in mode_of]
    _refuse_lost_classes(directories, {name for name, _ in kept})
    label_of = {name: label for label, name in enumerate(class_names)}
    return ClassFolder(
        config=config,
        image_size=image_size,
        mode=_settled_mode(config, mode_of),
        class_names=class_names,
        labels=torch.tensor([label_of[name] for name, _ in kept]),
        relative_paths=[file for _, file in kept],
        skipped=skipped,
        seed=seed,
    )


def _settled_class_names(root: Path, directories: list[str], imposed: Sequence[str] | None) -> tuple[str, ...]:
    if imposed is None:
        return tuple(directories)
    if len(set(imposed)) < len(imposed):
        raise ValueError(f"class names must differ from each other: {', '.join(imposed)}")
    unknown = [name for name in directories if name not in set(imposed)]
    if unknown:
        known = ", ".join([*imposed[:10], ".."] if len(imposed) > 10 else imposed)
        raise ValueError(
            f"{root} holds {len(unknown)} classes, '{unknown[0]}' for one, that are not among the {len(imposed)} asked "
            f"for ({known}); rename or remove these folders, or give data of the same classes"
        )
    return tuple(imposed)


def _header_modes(config: DataConfig, files: list[str]) -> tuple[dict[str, str], tuple[Path, ...]]:
    """Pillow's mode of each readable file, and the files left out."""
    mode_of: dict[str, str] = {}
    skipped: list[Path] = []
    # A bar outside the drivers: this is the one long thing that happens before a driver has anything to report.
    for file in tqdm(files, desc="reading image headers", unit="files", disable=len(files) <= _FILES_WORTH_A_BAR):
        path = config.path / file
        try:
            mode_of[file] = read_mode(path)
        except (DamagedImageError, OSError) as damage:
            if config.on_error == "stop":
                raise _stopped(damage) from damage
            skipped.append(path)
    if not mode_of:
        raise ValueError(f"none of the {len(files)} images in {config.path} can be read; the first is {files[0]}")
    return mode_of, tuple(skipped)


def _stopped(damage: Exception) -> DamagedImageError:
    return DamagedImageError(
        f"{damage}; repair or remove the file, or pass --data.on_error skip to do without such files"
    )


def _refuse_lost_classes(directories: list[str], kept: set[str]) -> None:
    lost = [name for name in directories if name not in kept]
    if lost:
        raise ValueError(f"every image of the class '{lost[0]}' is broken; repair its images or remove its folder")


def _settled_mode(config: DataConfig, mode_of: dict[str, str]) -> Literal["L", "RGB"]:
    if config.mode != "auto":
        return config.mode
    counts = Counter(mode_of.values())
    if len(counts) > 1:
        listed = ", ".join(f"{count} {mode}" for mode, count in counts.most_common())
        first_of = {mode: file for file, mode in reversed(mode_of.items())}
        examples = " and ".join(f"{first_of[mode]} is {mode}" for mode, _ in counts.most_common(2))
        raise ValueError(
            f"images of several modes in {config.path}: {listed}; for example {examples}; "
            f"--data.mode RGB converts all to colour, --data.mode L all to grey"
        )
    (mode,) = counts
    if mode == "L" or mode == "RGB":
        return mode
    raise ValueError(
        f"the images in {config.path} are of mode {mode}, which is neither grey (L) nor colour (RGB); "
        f"--data.mode {'L' if mode in _GREY_MODES else 'RGB'} converts them"
    )


def _x0(pixels: NDArray[np.uint8]) -> Tensor:
    return from_uint8(torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))))
