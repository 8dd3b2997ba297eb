"""The content and the faults of a data set, found before a training depends on it.

Every image is read and decoded whole. A fault becomes a line of the report and ends nothing.
"""

import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from .config import CHANNELS, Labels
from .crops import DamagedImageError, damage_named, decoded
from .formats.folder import FolderImages
from .formats.storage import EncodedImages
from .formats.tree import folder_tree
from .image_set import open_pictures
from .workers import chunks, read_in_workers


@dataclass(frozen=True)
class Facts:
    """Format, mode and size (width, height) of one file, or its damage."""

    digest: bytes
    """Hash of its bytes; empty if they could not be read."""
    format: str = ""
    mode: str = ""
    size: tuple[int, int] = (0, 0)
    damage: str | None = None


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A data set and the facts of each of its files."""

    path: Path
    refusal: str | None
    """The reason for which a training would refuse the data before it reads any image."""
    files: EncodedImages
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    facts: Sequence[Facts]

    @property
    def sound(self) -> NDArray[np.bool_]:
        """(N,) which images can be decoded."""
        return np.array([fact.damage is None for fact in self.facts])

    @property
    def class_counts(self) -> dict[str, int]:
        counts = np.bincount(self.labels, minlength=len(self.class_names)).tolist()
        return dict(zip(self.class_names, counts, strict=True))

    @property
    def broken(self) -> list[str]:
        """Broken files and their damage."""
        return [f"{self.files.path(i)}: {fact.damage}" for i, fact in enumerate(self.facts) if fact.damage is not None]

    @property
    def duplicates(self) -> list[list[int]]:
        """Indices of each set of files with the same bytes."""
        indices_of: defaultdict[bytes, list[int]] = defaultdict(list)
        for index, fact in enumerate(self.facts):
            if fact.digest:
                indices_of[fact.digest].append(index)
        return [indices for indices in indices_of.values() if len(indices) > 1]

    def sides(self) -> dict[str, NDArray[np.int64]]:
        """Widths, heights and shorter sides, pixels, of the images that can be decoded."""
        sizes = np.array([fact.size for fact in self.facts if fact.damage is None], dtype=np.int64).reshape(-1, 2)
        return {"width": sizes[:, 0], "height": sizes[:, 1], "shorter": sizes.min(axis=1)}

    def counted(self, name: str) -> Counter[str]:
        """Formats or modes of the images that can be decoded."""
        return Counter(getattr(fact, name) for fact in self.facts if fact.damage is None)


def inspected(path: Path, *, labels: Labels, num_workers: int) -> Inspection:
    """All files of a data set. A folder that a training refuses is looked through as well, each image under the
    directory that it lies in.

    Raises:
        FileNotFoundError: nothing at the path.
        ValueError: nothing in it that could be images.
    """
    try:
        _, stored, files = open_pictures(path, labels)
        numbers, class_names, refusal = stored.labels, stored.class_names, None
    except ValueError as error:
        names = folder_tree(path).images if path.is_dir() else ()
        if not names:
            raise
        classes = [name.split("/", 1)[0] if "/" in name else "beside the class folders" for name in names]
        found, numbers = np.unique(classes, return_inverse=True)
        class_names, refusal, files = tuple(found.tolist()), str(error), FolderImages(path, names)
    facts: list[Facts] = []
    with tqdm(total=len(files), desc="decoding", unit="files") as bar:
        for chunk in read_in_workers(partial(_facts, files), chunks(len(files)), num_workers=num_workers):
            facts += chunk
            bar.update(len(chunk))
    return Inspection(path=path, refusal=refusal, files=files, labels=numbers, class_names=class_names, facts=facts)


def _facts(files: EncodedImages, indices: Sequence[int]) -> list[Facts]:
    return [file_facts(files, index) for index in indices]


def file_facts(files: EncodedImages, index: int) -> Facts:
    """One image, read and decoded whole; every failure becomes `damage`."""
    path, digest = files.path(index), b""
    try:
        with damage_named(path), files.open(index) as file:
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


def report_lines(found: Inspection, *, size: int | None) -> list[str]:
    """The report for people. size: as of `InspectConfig`."""
    counts, modes, shorter = found.class_counts, found.counted("mode"), found.sides()["shorter"]
    lines = [f"{found.path}: {sum(counts.values()):,} images in {_counted(len(counts), 'class', 'classes')}"]
    if found.refusal is not None:
        lines.append(f"refused     a training would end with: {found.refusal}")
    lines.append(f"classes     {_balance(counts)}")
    for name, side in found.sides().items() if len(shorter) else ():
        lines.append(f"{name:<12}{side.min()} to {side.max()} pixels, median {np.median(side):g}")
    if size is not None and len(shorter):
        small = int((shorter < size).sum())
        share = f" ({small / len(shorter):.1%}), which training would enlarge" if small else ""
        lines.append(f"below {size:<6}{small:,} images{share}")
    needs_mode = len(modes) > 1 or not modes.keys() <= CHANNELS.keys()
    advice = "; training needs --data.mode RGB (or L), which converts them" if needs_mode else ""
    lines += [f"formats     {_shares(found.counted('format'))}", f"modes       {_shares(modes)}{advice}"]
    lines += _listed(f"broken      {_counted(len(found.broken), 'file', 'files')}", found.broken)
    return lines + _duplicate_lines(found)


def _balance(counts: dict[str, int]) -> str:
    names = list(counts)
    some = ", ".join(names if len(names) <= 6 else [*names[:5], "..", names[-1]])
    smallest, largest = min(names, key=counts.__getitem__), max(names, key=counts.__getitem__)
    low, high = counts[smallest], counts[largest]
    if low == high:
        return f"{some}: balanced, {_counted(low, 'image', 'images')} each"
    often = f"{high / low:.3g} times as many" if low else "the smallest is empty"
    return f"{some}: from {_counted(low, 'image', 'images')} ({smallest}) to {high:,} ({largest}), {often}"


def _duplicate_lines(found: Inspection) -> list[str]:
    sets = found.duplicates
    across = sum(len(np.unique(found.labels[indices])) > 1 for indices in sets)
    head = f"duplicates  {_counted(sum(map(len, sets)), 'file', 'files')}"
    if sets:
        head += f" in {_counted(len(sets), 'set', 'sets')} of equal ones"
    if across:
        head += f", {across:,} of them across classes"
    return _listed(head, [" = ".join(str(found.files.path(i)) for i in indices) for indices in sets])


def _listed(head: str, items: Sequence[str]) -> list[str]:
    return [f"{head}:" if items else head, *(f"  {item}" for item in items)]


def _counted(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}" if count else f"no {many}"


def _shares(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common()) or "none"
