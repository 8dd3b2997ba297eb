"""PNG files of images and grids."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ..files import atomic_write

if TYPE_CHECKING:
    from PIL import Image

SMALLEST_SIDE = 512
"""Grids of tiny images are enlarged by a whole factor to about this many pixels, so that a person can see them."""

CAPTION_HEIGHT = 14
"""Pixels of the band of captions below a grid."""


def picture(image: Tensor, *, enlarge: bool = True) -> "Image.Image":
    """A uint8 image (1 or 3, H, W) as Pillow's.

    enlarge: repeat pixels by a whole factor where the shorter side is below SMALLEST_SIDE pixels.
    """
    from PIL import Image  # here, so that commands show their help without it

    if image.shape[0] not in (1, 3):
        raise ValueError(f"a picture has 1 or 3 channels, not {image.shape[0]}")
    pixels = rearrange(image.cpu(), "c h w -> h w c").numpy()
    drawn = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
    factor = -(-SMALLEST_SIDE // min(drawn.size)) if enlarge else 1
    return drawn.resize((drawn.width * factor, drawn.height * factor), Image.Resampling.NEAREST)


def write_png(path: Path, image: Tensor, *, enlarge: bool = True, captions: Sequence[str] = ()) -> None:
    """Write a uint8 image (1 or 3, H, W) as PNG, whole or not at all, enlarged as `picture` does.

    captions: of columns of one width, written under them.
    """
    drawn = picture(image, enlarge=enlarge)
    with atomic_write(path) as file:
        (_captioned(drawn, captions) if captions else drawn).save(file, format="PNG")


def read_png(path: Path) -> Tensor:
    """A PNG of ours as a uint8 image (1 or 3, H, W)."""
    from PIL import Image

    with Image.open(path) as drawn:
        pixels = torch.from_numpy(np.array(drawn))
    return rearrange(pixels if pixels.ndim == 3 else pixels[:, :, None], "h w c -> c h w")


def _captioned(drawn: "Image.Image", captions: Sequence[str]) -> "Image.Image":
    """The picture over a band of captions, each cut to the width of its column."""
    from PIL import Image, ImageDraw

    sheet = Image.new(drawn.mode, (drawn.width, drawn.height + CAPTION_HEIGHT), "white")
    sheet.paste(drawn)
    pen, width = ImageDraw.Draw(sheet), drawn.width / len(captions)
    for column, caption in enumerate(captions):
        text = " ".join(caption.split())
        while text and pen.textlength(text) > width:
            text = text[:-1]
        pen.text((column * width + (width - pen.textlength(text)) / 2, drawn.height), text, fill="black")
    return sheet
