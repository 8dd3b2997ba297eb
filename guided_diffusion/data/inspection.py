"""The content and the faults of a data set, found before a training depends on it.

Every image is read and decoded whole. A fault becomes a line of the report and ends nothing.
"""

import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from ..files import atomic_write
from .config import CHANNELS, Labels, Window
from .crops import DamagedImageError, center_crop, damage_named, decoded, encoded_bytes, orientation
from .decoder import GREY_MODES
from .formats.folder import FolderImages
from .formats.storage import EncodedImages, PackedNames
from .formats.tree import folder_tree
from .image_set import open_pictures
from .subset import evenly_spaced
from .values import UnknownRangeError, channel_means, is_deep, value_doubt
from .workers import read_each

SIDE = 96
"""Side of a thumbnail, pixels."""
STEP = SIDE + 4
MOST_COLUMNS = 10
MOST_ROWS = 30
LABEL_WIDTH = 200
TEXT_SIZE = 14
MOST_MEANS = 10
"""Classes whose mean value is shown: the darkest and the brightest."""
LOOKED_AT = 16
"""Images whose values are looked at for a doubt."""


@dataclass(frozen=True)
class Facts:
    """Format, mode and size (width, height, upright) of one file, or its damage."""

    digest: bytes
    """Hash of its bytes; empty if they could not be read."""
    format: str = ""
    mode: str = ""
    size: tuple[int, int] = (0, 0)
    means: tuple[float, ...] = ()
    """Mean value of each channel, of 0..255."""
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
    window: Window | None = None
    """As `DataConfig.window`."""

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
        numbers, class_names, refusal = stored.labels, stored.class_names, None
    except ValueError as error:
        names = folder_tree(path).images if path.is_dir() else ()
        if not names:
            raise
        classes = [name.split("/", 1)[0] if "/" in name else "beside the class folders" for name in names]
        found, numbers = np.unique(classes, return_inverse=True)
        class_names, refusal, files = tuple(found.tolist()), str(error), FolderImages(path, PackedNames(names))
    read = partial(file_facts, files, window=window)
    facts = [*read_each(read, len(numbers), num_workers=num_workers, desc="decoding")]
    return Inspection(
        path=path, refusal=refusal, files=files, labels=numbers, class_names=class_names, facts=facts, window=window
    )


def file_facts(files: EncodedImages, index: int, *, window: Window | None = None) -> Facts:
    """One image, read and decoded whole; every failure becomes `damage`."""
    path, digest = files.path(index), b""
    try:
        with damage_named(path), files.open(index) as file:
            content = encoded_bytes(file)
            digest = hashlib.blake2b(content, digest_size=16).digest()
            with Image.open(io.BytesIO(content)) as image:
                image.load()
            seen = image
            if image.mode not in CHANNELS:  # not every mode can become what a network sees
                seen = decoded(io.BytesIO(content), mode="L" if image.mode in GREY_MODES else "RGB", window=window)
            means = channel_means(np.atleast_3d(np.asarray(seen)))
            size = image.size[::-1] if orientation(image) > 4 else image.size
            return Facts(digest, image.format or "", image.mode, size, means)
    except DamagedImageError as damage:
        unknown = isinstance(damage.__cause__, UnidentifiedImageError)  # whose message names a buffer of ours
        return Facts(digest, damage="no image of any known format" if unknown else str(damage.__cause__))
    except OSError as failure:
        return Facts(digest, damage=failure.strerror or str(failure))
    except UnknownRangeError as unknown_range:
        return Facts(digest, damage=f"{unknown_range.__cause__}; needs --data.window BLACK WHITE")


def report_lines(found: Inspection, *, size: int | None) -> list[str]:
    """The report for people. size: as of `InspectConfig`."""
    counts = found.class_counts
    lines = [f"{found.path}: {sum(counts.values()):,} images in {_counted(len(counts), 'class', 'classes')}"]
    if found.refusal is not None:
        lines.append(f"refused     a training would end with: {found.refusal}")
    lines.append(f"classes     {_balance(counts)}")
    sound = [fact for fact in found.facts if fact.damage is None]
    if sound:
        widths, heights = np.array([fact.size for fact in sound]).T
        shorter = np.minimum(widths, heights)
        for name, side in (("width", widths), ("height", heights), ("shorter", shorter)):
            lines.append(f"{name:<12}{side.min()} to {side.max()} pixels, median {np.median(side):g}")
        if size is not None:
            small = int((shorter < size).sum())
            share = f" ({small / len(sound):.1%}), which training would enlarge" if small else ""
            lines.append(f"below {size:<6}{small:,} images{share}")
    lines.append(f"formats     {_shares(fact.format for fact in sound)}")
    modes = {"L" if found.window is not None and is_deep(fact.mode) else fact.mode for fact in sound}
    needs_mode = len(modes) > 1 or not modes <= CHANNELS.keys()
    advice = "; training needs --data.mode RGB (or L), which converts them" if needs_mode else ""
    lines.append(f"modes       {_shares(fact.mode for fact in sound)}{advice}")
    lines += _value_lines(found)
    broken = [f"{found.files.path(i)}: {fact.damage}" for i, fact in enumerate(found.facts) if fact.damage is not None]
    lines += _listed(f"broken      {_counted(len(broken), 'file', 'files')}", broken)
    return lines + _duplicate_lines(found)


def _value_lines(found: Inspection) -> list[str]:
    """Mean values of the classes, and a doubt about values that fill a small part of the range."""
    sound = [index for index, fact in enumerate(found.facts) if fact.damage is None]
    if not sound:
        return []
    brightness = np.array([np.mean(found.facts[index].means) for index in sound])
    labels = found.labels[sound]
    means = {
        name: brightness[labels == label].mean() for label, name in enumerate(found.class_names) if label in labels
    }
    names = sorted(means, key=means.__getitem__)
    some = names if len(names) <= MOST_MEANS else [*names[: MOST_MEANS // 2], "..", *names[-MOST_MEANS // 2 :]]
    shown = ", ".join(f"{name} {means[name]:.1f}" if name in means else name for name in some)
    lines = [f"values      mean of each class, of 0..255: {shown}"]
    chosen = [sound[place] for place in evenly_spaced(len(sound), most=LOOKED_AT)]
    pixels = [np.asarray(_decoded(found, index)) for index in chosen]
    deep = any(is_deep(found.facts[index].mode) for index in sound)
    doubt = value_doubt(pixels, path=found.path, window=found.window, is_deep=deep)
    return [*lines, f"doubt       {doubt}"] if doubt else lines


def _decoded(found: Inspection, index: int) -> Image.Image:
    with damage_named(found.files.path(index)), found.files.open(index) as file:
        return decoded(file, mode="RGB", window=found.window)


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
    """Sets of files with the same bytes."""
    indices_of: defaultdict[bytes, list[int]] = defaultdict(list)
    for index, fact in enumerate(found.facts):
        if fact.digest:
            indices_of[fact.digest].append(index)
    sets = [indices for indices in indices_of.values() if len(indices) > 1]
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
        lines = [found.class_names[label], f"{len(members):,} image{'' if len(members) == 1 else 's'}"]
        lines += [f"{len(members) - len(whole):,} broken"] if len(whole) < len(members) else []
        draw.multiline_text((STEP - SIDE, top + SIDE // 2), "\n".join(lines), fill="black", font=font, anchor="lm")
        page.paste("white", (LABEL_WIDTH, top, page.width, top + SIDE))  # over the end of a long name
        for column, member in enumerate(evenly_spaced(len(whole), most=MOST_COLUMNS)):
            page.paste(_thumbnail(_decoded(found, whole[member])), (LABEL_WIDTH + column * STEP, top))
    with atomic_write(path) as file:
        page.save(file, format="PNG")


def _thumbnail(image: Image.Image) -> Image.Image:
    """The square that training would see; of small images every pixel repeated, not blurred."""
    side = min(*image.size, SIDE)
    enlarged = side * (SIDE // side)
    square = Image.fromarray(center_crop(image, side)).resize((enlarged, enlarged), Image.Resampling.NEAREST)
    framed = Image.new("RGB", (SIDE, SIDE), "white")
    framed.paste(square, ((SIDE - enlarged) // 2, (SIDE - enlarged) // 2))
    return framed
