"""A page of thumbnails, a row for each class, to look at before anything is trained."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..files import atomic_write
from .crops import center_crop, damage_named, decoded
from .formats.storage import EncodedImages
from .inspection import Inspection

SIDE = 96
"""Side of a thumbnail, pixels."""
MARGIN = 4
STEP = SIDE + MARGIN
MOST_COLUMNS = 10
"""Thumbnails of one class."""
MOST_ROWS = 30
LABEL_WIDTH = 200
"""Most of it; longer names are cut."""
PAGE_WIDTH = LABEL_WIDTH + MOST_COLUMNS * STEP
"""Classes of so few images that two fit into this stand side by side."""
TEXT_SIZE = 14

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def write_thumbnails(path: Path, found: Inspection) -> None:
    """Write a PNG of centre crops, evenly spaced over each class, beside the class's name and size.

    Broken images are left out, and counted. Of more classes than fit, as many as do, evenly spaced.
    """
    font = ImageFont.load_default(TEXT_SIZE)
    counts = np.bincount(found.labels, minlength=len(found.class_names))
    label_width = _label_width(found.class_names, font)
    strip_width = label_width + min(int(counts.max()), MOST_COLUMNS) * STEP
    strips = max(1, PAGE_WIDTH // strip_width)
    shown = _evenly(range(len(counts)), MOST_ROWS * strips)
    rows = -(-len(shown) // strips)
    page = Image.new("RGB", (min(strips, len(shown)) * strip_width, (rows + 1) * STEP - SIDE // 2), "white")
    draw = ImageDraw.Draw(page)
    title = f"{len(shown)} of {len(counts):,} classes, {len(found.labels):,} images"
    draw.text((MARGIN, SIDE // 4), title, fill="black", font=font, anchor="lm")
    sound = found.sound
    for place, label in enumerate(shown):
        left, top = place // rows * strip_width, place % rows * STEP + SIDE // 2
        members = np.flatnonzero(found.labels == label)
        caption = _caption(_shortened(found.class_names[label], font), sound[members])
        draw.multiline_text((left + MARGIN, top + SIDE // 2), caption, fill="black", font=font, anchor="lm")
        for column, index in enumerate(_evenly(members[sound[members]].tolist(), MOST_COLUMNS)):
            page.paste(_thumbnail(found.files, index), (left + label_width + column * STEP, top))
    encoded = io.BytesIO()
    page.save(encoded, format="PNG")
    with atomic_write(path) as file:
        file.write(encoded.getvalue())


def _label_width(names: Sequence[str], font: Font) -> int:
    """Of the column that holds all names, cut if need be, and any number of images below them."""
    longest = max(font.getlength(text) for text in ["1,000,000 images", *(_shortened(name, font) for name in names)])
    return math.ceil(longest) + 3 * MARGIN


def _caption(name: str, sound: NDArray[np.bool_]) -> str:
    broken = len(sound) - int(sound.sum())
    counted = f"{len(sound):,} image{'' if len(sound) == 1 else 's'}"
    return f"{name}\n{counted}" + (f"\n{broken:,} broken" if broken else "")


def _thumbnail(files: EncodedImages, index: int) -> Image.Image:
    """The square that training would see; of small images every pixel repeated, not blurred."""
    with damage_named(files.path(index)), files.open(index) as file:
        image = decoded(file, mode="RGB")
    side = min(*image.size, SIDE)
    square = Image.fromarray(center_crop(image, side))
    factor = SIDE // side
    enlarged = square.resize((side * factor, side * factor), Image.Resampling.NEAREST)
    framed = Image.new("RGB", (SIDE, SIDE), "white")
    framed.paste(enlarged, ((SIDE - enlarged.width) // 2, (SIDE - enlarged.height) // 2))
    return framed


def _shortened(name: str, font: Font) -> str:
    """The beginning of a name that fits beside its row."""
    kept = name
    while kept and font.getlength(kept if kept == name else f"{kept}..") > LABEL_WIDTH - 2 * MARGIN:
        kept = kept[:-1]
    return kept if kept == name else f"{kept}.."


def _evenly(items: Sequence[int], most: int) -> list[int]:
    """At most `most` items, the first among them, evenly spaced."""
    count = min(len(items), most)
    return [items[i * len(items) // count] for i in range(count)]
