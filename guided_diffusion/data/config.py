"""Settings of a data set; light to import, since every command that reads images shows them in its help."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Labels = Literal["folders", "filenames"] | Path
Mode = Literal["L", "RGB", "RGBA"]
Window = tuple[float, float]
"""The values of pixels that become black and white."""

CHANNELS: Mapping[str, int] = {"L": 1, "RGB": 3, "RGBA": 4}
"""Channels of each mode that networks see."""
MODES: Mapping[int, Mode] = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Images and their classes. The image size is the network's and is not set here."""

    path: Path
    """A folder with one directory per class, `path/<class>/**/*.jpg` (or png, webp, tiff, .. whatever Pillow
    reads; heic with the package pillow-heif). EXIF orientation is honoured; of several frames the first is taken. A
    .zip of such a folder, or a folder in it, `data.zip/train`. A .tar, or a folder of .tar, of WebDataset samples,
    KEY.jpg beside KEY.cls. A Hugging Face dataset: `hf:NAME`, `hf:NAME:SPLIT`, or the directory that its save_to_disk
    or its Parquet files made. A directory that scripts/prepare_data.py made."""
    labels: Labels = "folders"
    """Labels of the images in folders and zips. folders: the directory. filenames: the name up to the first "_", as
    published. Else a table, looked for below `path` first: .csv with the columns file,label, or .json,
    {"FILE": LABEL, ..} or {"labels": [["FILE", LABEL], ..]}; FILE is relative to `path`, and whole numbers are class
    numbers, anything else names; for train_classifier's --target, .csv with a column file and others. Of a Hugging Face
    dataset: the name of the ClassLabel column, if there are several."""
    mode: Literal["auto", "L", "RGB", "RGBA"] = "auto"
    """Grey (L, one channel), colour (RGB, three) or colour with alpha (RGBA, four). The first two composite transparent
    pixels over white. auto: L or RGB, the mode of the files, which must all have the same."""
    window: Window | None = None
    """Of grey with more than 8 bits, the values that become black and white, such as 0 4095 of 12 bits; those between
    are linear, those beyond clipped. null: all 16 bits, 0 65535; floats and other integers need a window."""
    crop: Literal["center", "random"] = "center"
    """The published square crops. random: shorter side scaled to 1..1.25 times the image size (ADM's classifiers)."""
    flip: bool = False
    """Mirror left to right with probability one half."""
    balance: bool = False
    """Draw classes equally often in training, whatever their numbers of images: those of a small class are repeated. A
    classifier then learns p(y | x) for an even p(y)."""
    on_error: Literal["stop", "skip"] = "stop"
    """Broken images: stop with the name of the first, or skip them and log their names. Pixels cut short behind a sound
    header are found when they are needed. A file that cannot be read for other reasons always ends the run."""
    num_workers: int = 2
    """Decoding processes beside each training process; 0 decodes in the training process itself."""

    def __post_init__(self) -> None:
        check_num_workers(self.num_workers)
        check_window(self.window, option="data.window")


def check_num_workers(num_workers: int) -> None:
    """Refuse a negative number of decoding processes."""
    if num_workers < 0:
        raise ValueError(f"data.num_workers is a number of processes, 0 or more, not {num_workers}")


def check_window(window: Window | None, *, option: str) -> None:
    """Refuse a window whose values do not ascend."""
    if window is not None and not -math.inf < window[0] < window[1] < math.inf:
        raise ValueError(f"--{option} is the value of black, then a larger one of white; got {window[0]} {window[1]}")


def refuse_among(images: Path, out: Path | None) -> None:
    """Refuse an output below the images that are read: its pictures would be taken for some of them the next time."""
    if out is not None and out.resolve().is_relative_to(images.resolve()):
        raise ValueError(f"{out} would lie among the images of {images} and change them; give --out another directory")
