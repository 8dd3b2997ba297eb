"""PNG files of images and grids."""

from pathlib import Path
from typing import TYPE_CHECKING

from einops import rearrange
from torch import Tensor

from ..files import atomic_write

if TYPE_CHECKING:
    from PIL import Image

SMALLEST_SIDE = 512
"""Grids of tiny images are enlarged by a whole factor to about this many pixels, so that a person can see them."""


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


def write_png(path: Path, image: Tensor, *, enlarge: bool = True) -> None:
    """Write a uint8 image (1 or 3, H, W) as PNG, whole or not at all, enlarged as `picture` does."""
    drawn = picture(image, enlarge=enlarge)
    with atomic_write(path) as file:
        drawn.save(file, format="PNG")
