"""The content and the faults of a data set, found before a training depends on it.

Every image is read and decoded whole. A fault becomes a line of the report and ends nothing.
"""

import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..files import atomic_write
from .config import CHANNELS, Labels, Window
from .crops import DamagedImageError, center_crop, damage_named, decoded, encoded_bytes, opened, orientation
from .formats.folder import FolderImages
from .formats.storage import EncodedImages, PackedNames
from .formats.tree import folder_tree
from .headers import GREY_MODES
from .image_set import open_pictures
from .labels import class_doubts
from .subset import evenly_spaced
from .summary import counted, listed_files
from .values import LOOKED_AT, UnknownRangeError, is_deep, value_doubts
from .workers import read_each

SIDE = 96
"""Side of a thumbnail, pixels."""
STEP = SIDE + 4
MOST_COLUMNS = 10
MOST_ROWS = 30
LABEL_WIDTH = 200
TEXT_SIZE = 14
_MOST_MEANS = 6
"""Classes whose means are all listed."""


@dataclass(frozen=True)
class Facts:
    """Format, mode and size (width, height, upright) of one file, or its damage."""

    digest: bytes
    """Hash of its bytes; empty if they could not be read."""
    format: str = ""
    mode: str = ""
    size: tuple[int, int] = (0, 0)
    damage: str | None = None
    means: tuple[float, ...] = ()
    """Mean value of each channel, 0..255."""
    is_constant: bool = False
    """True if all its pixels are equal."""
    turned: bool = False
    """True if its EXIF orientation turns it."""


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
    left_out: Mapping[str, Sequence[str]]
    """As `StoredImages.left_out`."""
    labelled_by: Labels
    window: Window | None

    @property
    def sound(self) -> list[int]:
        """Indices of the files without damage."""
        return [index for index, fact in enumerate(self.facts) if fact.damage is None]

    @property
    def class_counts(self) -> dict[str, int]:
        counts = np.bincount(self.labels, minlength=len(self.class_names)).tolist()
        return dict(zip(self.class_names, counts, strict=True))


def inspected(path: Path, *, labels: Labels, num_workers: int, window: Window | None = None) -> Inspection:
    """All files of a data set. A folder that a training refuses is looked through as well, each image under the
    directory that it lies in.

    Raises:
        FileNotFoundError: nothing at the path.
        ValueError: nothing in it that could be images.
    """
    try:
        stored, files = open_pictures(path, labels)
        numbers, class_names, left_out, refusal = stored.labels, stored.class_names, stored.left_out, None
    except ValueError as error:
        tree = folder_tree(path) if path.is_dir() else None
        if tree is None or not tree.images:
            raise
        names, left_out = tree.images, tree.left_out(labels)
        classes = [name.split("/", 1)[0] if "/" in name else "beside the class folders" for name in names]
        found, numbers = np.unique(classes, return_inverse=True)
        class_names, refusal, files = tuple(found.tolist()), str(error), FolderImages(path, PackedNames(names))
    read = partial(file_facts, files, window=window)
    facts = [*read_each(read, len(numbers), num_workers=num_workers, desc="decoding")]
    return Inspection(
        path=path, refusal=refusal, files=files, labels=numbers, class_names=class_names, facts=facts,
        left_out=left_out, labelled_by=labels, window=window,
    )  # fmt: skip


def file_facts(files: EncodedImages, index: int, *, window: Window | None = None) -> Facts:
    """One image, read and decoded whole; every failure becomes `damage`."""
    path, digest = files.path(index), b""
    try:
        with damage_named(path), files.open(index) as file:
            content = encoded_bytes(file)
            digest = hashlib.blake2b(content, digest_size=16).digest()
            with opened(io.BytesIO(content)) as image:
                turn = orientation(image)
                width, height = image.size
                size = (height, width) if turn > 4 and image.format != "TIFF" else (width, height)  # TIFF's are turned
                found = Facts(digest, image.format or "", image.mode, size, turned=turn > 1)
            # Not every mode can become what a network sees.
            pixels = _pixels(content, found.mode, window)
            means, is_constant = tuple(pixels.mean(axis=(0, 1)).tolist()), bool((pixels == pixels[0, 0]).all())
            return replace(found, means=means, is_constant=is_constant)
    except DamagedImageError as damage:
        return Facts(digest, damage=str(damage.__cause__))
    except UnknownRangeError as unknown:
        return Facts(digest, damage=f"{unknown.__cause__}; needs --data.window BLACK WHITE")
    except OSError as failure:
        return Facts(digest, damage=failure.strerror or str(failure))


def _pixels(content: bytes, mode: str, window: Window | None) -> NDArray[np.uint8]:
    """The image (H, W, C); grey where its own mode is grey."""
    image = decoded(io.BytesIO(content), mode="L" if mode in GREY_MODES else "RGB", window=window)
    return np.array(image).reshape(image.height, image.width, -1)


def report_lines(found: Inspection, *, size: int | None) -> list[str]:
    """The report for people. size: as of `InspectConfig`."""
    counts = found.class_counts
    lines = [f"{found.path}: {sum(counts.values()):,} images in {counted(len(counts), 'class', 'classes')}"]
    if found.refusal is not None:
        lines.append(f"refused     a training would end with: {found.refusal}")
    if found.left_out:
        lines.append(f"left out    {listed_files(found.left_out)}")
    lines.append(f"classes     {_balance(counts)}")
    if sound := [found.facts[index] for index in found.sound]:
        lines += [*_size_lines(sound, size), *_mean_lines(found)]
    lines.append(f"formats     {_shares(fact.format for fact in sound)}")
    modes = {"L" if found.window is not None and is_deep(fact.mode) else fact.mode for fact in sound}
    needs_mode = len(modes) > 1 or not modes <= CHANNELS.keys()
    advice = "; training needs --data.mode RGB (or L), which converts them" if needs_mode else ""
    lines.append(f"modes       {_shares(fact.mode for fact in sound)}{advice}")
    if turned := sum(fact.turned for fact in sound):
        lines.append(f"turned      {counted(turned, 'image')}, by the EXIF orientation")
    constant = [str(found.files.path(i)) for i, fact in enumerate(found.facts) if fact.is_constant]
    if constant:
        lines += _listed(f"constant    {counted(len(constant), 'image')} of one value each", constant)
    broken = [f"{found.files.path(i)}: {fact.damage}" for i, fact in enumerate(found.facts) if fact.damage is not None]
    lines += _listed(f"broken      {counted(len(broken), 'file')}", broken)
    return lines + _duplicate_lines(found) + [f"doubt       {doubt}" for doubt in _doubts(found)]


def _size_lines(sound: Sequence[Facts], size: int | None) -> list[str]:
    widths, heights = np.array([fact.size for fact in sound]).T
    shorter = np.minimum(widths, heights)
    lines = [
        f"{name:<12}{side.min()} to {side.max()} pixels, median {np.median(side):g}"
        for name, side in (("width", widths), ("height", heights), ("shorter", shorter))
    ]
    if size is not None:
        small = int((shorter < size).sum())
        share = f" ({small / len(sound):.1%}), which training would enlarge" if small else ""
        lines.append(f"below {size:<6}{small:,} images{share}")
    return lines


def _mean_lines(found: Inspection) -> list[str]:
    """Mean values of the channels, of each class where there are few, else of the darkest and the brightest."""
    channels = max(len(fact.means) for fact in found.facts)
    # Among colour, grey has three equal means.
    means = np.array([np.resize(found.facts[index].means, channels) for index in found.sound])
    labels = found.labels[found.sound]
    of_class = {found.class_names[label]: means[labels == label].mean(axis=0) for label in np.unique(labels)}
    shown = sorted(of_class, key=lambda name: of_class[name].sum())
    shown = list(of_class) if len(shown) <= _MOST_MEANS else [shown[0], shown[-1]]
    texts = [f"{name} {_mean(of_class[name])}" for name in shown] if len(of_class) > 1 else []
    return [f"means       {'; '.join([_mean(means.mean(axis=0)), *texts])}, of 255"]


def _mean(channels: NDArray[np.float64]) -> str:
    return " ".join(f"{value:.1f}" for value in channels)


def _doubts(found: Inspection) -> list[str]:
    sound, images = found.sound, list[NDArray[np.uint8]]()
    for place in evenly_spaced(len(sound), most=LOOKED_AT):
        with found.files.open(sound[place]) as file:
            images.append(_pixels(encoded_bytes(file), found.facts[sound[place]].mode, found.window))
    deep = any(is_deep(found.facts[index].mode) for index in sound)
    return [
        *class_doubts(found.labels, found.class_names, source=found.path, by=found.labelled_by),
        *value_doubts(images, path=found.path, window=found.window, is_deep=deep),
    ]


def _balance(counts: dict[str, int]) -> str:
    names = list(counts)
    some = ", ".join(names if len(names) <= 6 else [*names[:5], "..", names[-1]])
    smallest, largest = min(names, key=counts.__getitem__), max(names, key=counts.__getitem__)
    low, high = counts[smallest], counts[largest]
    if low == high:
        return f"{some}: balanced, {counted(low, 'image')} each"
    often = f"{high / low:.3g} times as many" if low else "the smallest is empty"
    return f"{some}: from {counted(low, 'image')} ({smallest}) to {high:,} ({largest}), {often}"


def _duplicate_lines(found: Inspection) -> list[str]:
    """Sets of files with the same bytes."""
    indices_of: defaultdict[bytes, list[int]] = defaultdict(list)
    for index, fact in enumerate(found.facts):
        if fact.digest:
            indices_of[fact.digest].append(index)
    sets = [indices for indices in indices_of.values() if len(indices) > 1]
    across = sum(len(np.unique(found.labels[indices])) > 1 for indices in sets)
    head = f"duplicates  {counted(sum(map(len, sets)), 'file')}"
    if sets:
        head += f" in {counted(len(sets), 'set')} of equal ones"
    if across:
        head += f", {across:,} of them across classes"
    return _listed(head, [" = ".join(str(found.files.path(i)) for i in indices) for indices in sets])


def _listed(head: str, items: Sequence[str]) -> list[str]:
    return [f"{head}:" if items else head, *(f"  {item}" for item in items)]


def _shares(names: Iterable[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in Counter(names).most_common()) or "none"


def write_thumbnails(path: Path, found: Inspection) -> None:
    """Write a PNG of centre crops, evenly spaced over each class, beside the class's name and size.

    Broken images are left out, and counted. Of more than `MOST_ROWS` classes, as many, evenly spaced.
    """
    font = ImageFont.load_default(TEXT_SIZE)
    counts = found.class_counts
    shown = evenly_spaced(len(counts), most=MOST_ROWS)
    page = Image.new("RGB", (LABEL_WIDTH + MOST_COLUMNS * STEP, (len(shown) + 1) * STEP - SIDE // 2), "white")
    draw = ImageDraw.Draw(page)
    title = f"{len(shown)} of {len(counts):,} classes, {len(found.labels):,} images"
    draw.text((STEP - SIDE, SIDE // 4), title, fill="black", font=font, anchor="lm")
    for row, label in enumerate(shown):
        top = row * STEP + SIDE // 2
        members = np.flatnonzero(found.labels == label).tolist()
        whole = [member for member in members if found.facts[member].damage is None]
        lines = [found.class_names[label], counted(len(members), "image")]
        lines += [f"{len(members) - len(whole):,} broken"] if len(whole) < len(members) else []
        draw.multiline_text((STEP - SIDE, top + SIDE // 2), "\n".join(lines), fill="black", font=font, anchor="lm")
        page.paste("white", (LABEL_WIDTH, top, page.width, top + SIDE))  # over the end of a long name
        for column, member in enumerate(evenly_spaced(len(whole), most=MOST_COLUMNS)):
            page.paste(_thumbnail(found.files, whole[member], found.window), (LABEL_WIDTH + column * STEP, top))
    with atomic_write(path) as file:
        page.save(file, format="PNG")


def _thumbnail(files: EncodedImages, index: int, window: Window | None) -> Image.Image:
    """The square that training would see; of small images every pixel repeated, not blurred."""
    with damage_named(files.path(index)), files.open(index) as file:
        image = decoded(file, mode="RGB", window=window)
    side = min(*image.size, SIDE)
    enlarged = side * (SIDE // side)
    square = Image.fromarray(center_crop(image, side)).resize((enlarged, enlarged), Image.Resampling.NEAREST)
    framed = Image.new("RGB", (SIDE, SIDE), "white")
    framed.paste(square, ((SIDE - enlarged) // 2, (SIDE - enlarged) // 2))
    return framed
