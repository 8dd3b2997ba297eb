"""What a data set holds and what is wrong with it, told before a training depends on it.

Every image is read and decoded whole. A problem becomes a line of the report and ends nothing.
"""

import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..files import write_json
from .crops import CHANNELS, DamagedImageError, damage_named, decoded
from .formats.folder import FolderStorage
from .inspection_report import Inspection, report_lines, report_record
from .kinds import Labels, open_labelled_images
from .listing import folder_tree
from .storage import LabelledImages, Storage
from .thumbnails import write_page

CHUNK = 64
"""Images that a worker process reads at a time."""


@dataclass(frozen=True, kw_only=True)
class InspectedConfig:
    """Which images to look at."""

    path: Path
    """As of a training: a folder with one directory per class, a zip, WebDataset shards, .."""
    labels: Labels = "folders"
    """As of a training."""
    num_workers: int = 2
    """Processes that decode; 0 decodes in this one."""

    def __post_init__(self) -> None:
        if self.num_workers < 0:
            raise ValueError(f"data.num_workers is a number of processes, 0 or more, not {self.num_workers}")


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Look through all images: classes, sizes, broken and duplicate files, and a page of thumbnails."""

    data: InspectedConfig
    """The images."""
    size: int | None = None
    """Side of the images to be trained on, pixels; tells how many files are smaller. null: not asked."""
    out: Path | None = None
    """PNG to write with a row of thumbnails for each class; null: none."""
    json: Path | None = None
    """File for the whole report, with all broken and all duplicate files; null: none."""

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"size is a number of pixels, at least 1, not {self.size}")
        if self.out is not None and self.out.suffix.lower() != ".png":
            raise ValueError(f"the page of thumbnails is a PNG; give --out a name that ends in .png, not {self.out}")


@dataclass(frozen=True)
class Facts:
    """What one file turned out to be."""

    digest: bytes
    """Of its bytes; empty if they could not be read."""
    format: str = ""
    mode: str = ""
    size: tuple[int, int] = (0, 0)
    """Width and height, pixels."""
    damage: str | None = None
    """Why it cannot be used."""


def inspect_data(config: InspectConfig) -> None:
    """Look through the data, print a report, and write the page and the JSON that were asked for.

    Raises:
        FileNotFoundError: nothing at the path.
        ValueError: nothing in it that could be images.
    """
    images, problem = _opened(config.data)
    facts = _all_facts(images.storage, config.data.num_workers)
    found = summed_up(config.data.path, images, facts, problem=problem)
    print("\n".join(report_lines(found, size=config.size)))
    if config.json is not None:
        write_json(config.json, report_record(found))
    if config.out is not None:
        sound = np.array([fact.damage is None for fact in facts])
        write_page(config.out, images, sound=sound)
        print(f"thumbnails  {config.out}")


def _opened(config: InspectedConfig) -> tuple[LabelledImages, str | None]:
    """The images, and what a training would refuse them for.

    A folder that is refused is looked through all the same, each image under the directory that it lies in.
    """
    try:
        return open_labelled_images(config.path, labels=config.labels), None
    except ValueError as refusal:
        names = folder_tree(config.path).images if config.path.is_dir() else ()
        if not names:
            raise
        classes = [name.split("/", 1)[0] if "/" in name else "beside the class folders" for name in names]
        class_names, labels = np.unique(classes, return_inverse=True)
        storage = FolderStorage(config.path, names)
        images = LabelledImages(storage=storage, labels=labels, class_names=tuple(class_names.tolist()))
        return images, str(refusal)


class _Files(Dataset[Any]):  # Any: DataLoader's types know items and lists of them, not what a chunk becomes
    """The storage as a worker process sees it."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def __getitems__(self, indices: Sequence[int]) -> list[Facts]:
        return [file_facts(self.storage, index) for index in indices]


def _all_facts(storage: Storage, num_workers: int) -> list[Facts]:
    chunks = [list(range(start, min(start + CHUNK, len(storage)))) for start in range(0, len(storage), CHUNK)]
    loader = DataLoader(
        _Files(storage),
        batch_sampler=chunks,
        num_workers=num_workers,
        collate_fn=list,
        generator=torch.Generator(),  # DataLoader would draw its workers' seed from the global generator
    )
    facts: list[Facts] = []
    with tqdm(total=len(storage), desc="decoding", unit="files") as bar:
        for chunk in loader:
            facts += chunk
            bar.update(len(chunk))
    return facts


def file_facts(storage: Storage, index: int) -> Facts:
    """One image, read and decoded whole; what fails is said in `damage`."""
    path, digest = storage.path(index), b""
    try:
        with damage_named(path), storage.open(index) as file:
            content = file.read()
            digest = hashlib.blake2b(content, digest_size=16).digest()
            with Image.open(io.BytesIO(content)) as image:
                image.load()
            if image.mode not in CHANNELS:
                decoded(io.BytesIO(content), mode="RGB")  # not every mode can become what a network sees
            return Facts(digest, image.format or "", image.mode, image.size)
    except DamagedImageError as damage:
        unknown = isinstance(damage.__cause__, UnidentifiedImageError)  # whose message names a buffer of ours
        return Facts(digest, damage="no image of any known format" if unknown else str(damage.__cause__))
    except OSError as failure:
        return Facts(digest, damage=failure.strerror or str(failure))


def summed_up(path: Path, images: LabelledImages, facts: Sequence[Facts], *, problem: str | None) -> Inspection:
    """The facts of all images as a report needs them."""
    counts = np.bincount(images.labels, minlength=len(images.class_names)).tolist()
    sound = [fact for fact in facts if fact.damage is None]
    sets = _equal_files(facts)
    return Inspection(
        path=path,
        problem=problem,
        class_counts=dict(zip(images.class_names, counts, strict=True)),
        sizes=np.array([fact.size for fact in sound], dtype=np.int64).reshape(len(sound), 2),
        formats=Counter(fact.format for fact in sound),
        modes=Counter(fact.mode for fact in sound),
        broken=tuple((images.storage.path(i), fact.damage) for i, fact in enumerate(facts) if fact.damage is not None),
        duplicates=tuple(tuple(images.storage.path(i) for i in indices) for indices in sets),
        across_classes=sum(len(np.unique(images.labels[indices])) > 1 for indices in sets),
    )


def _equal_files(facts: Iterable[Facts]) -> list[list[int]]:
    """The indices of each set of files with the same bytes."""
    indices_of: defaultdict[bytes, list[int]] = defaultdict(list)
    for index, fact in enumerate(facts):
        if fact.digest:
            indices_of[fact.digest].append(index)
    return [indices for indices in indices_of.values() if len(indices) > 1]
