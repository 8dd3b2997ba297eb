"""A page of thumbnails, a row for each class, to look at before a training."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..files import atomic_write
from .crops import center_crop, damage_named, decoded
from .formats.storage import EncodedImages
from .inspection import Inspection

SIDE = 96
"""Side of a thumbnail, pixels."""
STEP = SIDE + 4
MOST_COLUMNS = 10
MOST_ROWS = 30
LABEL_WIDTH = 200
TEXT_SIZE = 14


def write_thumbnails(path: Path, found: Inspection) -> None:
    """Write a PNG of centre crops, evenly spaced over each class, beside the class's name and size.

    Broken images are left out, and counted. Of more than `MOST_ROWS` classes, as many, evenly spaced.
    """
    font = ImageFont.load_default(TEXT_SIZE)
    sound, counts = found.sound, found.class_counts
    shown = _evenly(range(len(counts)), MOST_ROWS)
    page = Image.new("RGB", (LABEL_WIDTH + MOST_COLUMNS * STEP, (len(shown) + 1) * STEP - SIDE // 2), "white")
    draw = ImageDraw.Draw(page)
    title = f"{len(shown)} of {len(counts):,} classes, {len(found.labels):,} images"
    draw.text((STEP - SIDE, SIDE // 4), title, fill="black", font=font, anchor="lm")
    for row, label in enumerate(shown):
        top = row * STEP + SIDE // 2
        members = np.flatnonzero(found.labels == label)
        whole = members[sound[members]].tolist()
        lines = [found.class_names[label], f"{len(members):,} image{'' if len(members) == 1 else 's'}"]
        lines += [f"{len(members) - len(whole):,} broken"] if len(whole) < len(members) else []
        draw.multiline_text((STEP - SIDE, top + SIDE // 2), "\n".join(lines), fill="black", font=font, anchor="lm")
        page.paste("white", (LABEL_WIDTH, top, page.width, top + SIDE))  # over the end of a long name
        for column, index in enumerate(_evenly(whole, MOST_COLUMNS)):
            page.paste(_thumbnail(found.files, index), (LABEL_WIDTH + column * STEP, top))
    encoded = io.BytesIO()
    page.save(encoded, format="PNG")
    with atomic_write(path) as file:
        file.write(encoded.getvalue())


def _thumbnail(files: EncodedImages, index: int) -> Image.Image:
    """The square that training would see; of small images every pixel repeated, not blurred."""
    with damage_named(files.path(index)), files.open(index) as file:
        image = decoded(file, mode="RGB")
    side = min(*image.size, SIDE)
    enlarged = side * (SIDE // side)
    square = Image.fromarray(center_crop(image, side)).resize((enlarged, enlarged), Image.Resampling.NEAREST)
    framed = Image.new("RGB", (SIDE, SIDE), "white")
    framed.paste(square, ((SIDE - enlarged) // 2, (SIDE - enlarged) // 2))
    return framed


def _evenly(items: Sequence[int], most: int) -> list[int]:
    """At most `most` items, the first among them, evenly spaced."""
    count = min(len(items), most)
    return [items[i * len(items) // count] for i in range(count)]
