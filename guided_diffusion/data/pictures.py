"""PNG files of images, grids and masks."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ..diffusion.images import grid
from ..files import atomic_write

if TYPE_CHECKING:
    from PIL import Image

SMALLEST_SIDE = 512
"""Grids of tiny images are enlarged by a whole factor to about this many pixels, so that a person can see them."""
SMALLEST_TILE = 64
"""Pixels of the shorter side of a tile, to which tiny images are enlarged in grids with captions."""
TEXT_SIZE = 14
MARGIN = 6
"""Pixels around a caption."""


def picture(image: Tensor, *, enlarge: bool = True) -> "Image.Image":
    """A uint8 image (1, 3 or 4, H, W) as Pillow's.

    enlarge: repeat pixels by a whole factor where the shorter side is below SMALLEST_SIDE pixels.
    """
    from PIL import Image  # here, so that commands show their help without it

    if image.shape[0] not in (1, 3, 4):
        raise ValueError(f"a picture has 1, 3 or 4 channels, not {image.shape[0]}")
    pixels = rearrange(image.cpu(), "c h w -> h w c").numpy()
    drawn = Image.fromarray(pixels if pixels.shape[2] > 1 else pixels[:, :, 0])
    factor = -(-SMALLEST_SIDE // min(drawn.size)) if enlarge else 1
    return drawn.resize((drawn.width * factor, drawn.height * factor), Image.Resampling.NEAREST)


def write_png(path: Path, image: Tensor, *, enlarge: bool = True) -> None:
    """Write a uint8 image (1, 3 or 4, H, W) as PNG, whole or not at all, enlarged as `picture` does."""
    drawn = picture(image, enlarge=enlarge)
    with atomic_write(path) as file:
        drawn.save(file, format="PNG")


def read_png(path: Path) -> Tensor:
    """A PNG of ours as a uint8 image (1, 3 or 4, H, W)."""
    from PIL import Image

    with Image.open(path, formats=["PNG"]) as drawn:
        pixels = torch.from_numpy(np.array(drawn))
    return rearrange(pixels if pixels.ndim == 3 else pixels[:, :, None], "h w c -> c h w")


def write_grid(
    path: Path, images: Tensor, *, columns: int, rows: Sequence[str] = (), heads: Sequence[str] = ()
) -> None:
    """Write images (N, C, H, W) uint8 as a PNG grid, whole or not at all, with captions beside rows and above columns.

    The size of its tiles follows from that of the images alone, so that grids of one model can be compared.
    """
    from PIL import Image, ImageDraw, ImageFont

    tiled = picture(grid(images, columns=columns), enlarge=False)
    factor = -(-SMALLEST_TILE // min(images.shape[2:]))
    tiled = tiled.resize((tiled.width * factor, tiled.height * factor), Image.Resampling.NEAREST)
    font, pitch = ImageFont.load_default(TEXT_SIZE), [(side + 1) * factor for side in images.shape[2:]]
    left = 2 * MARGIN + int(max(map(font.getlength, rows))) if rows else 0
    top = 2 * MARGIN + TEXT_SIZE if heads else 0
    page = Image.new(tiled.mode, (tiled.width + left, tiled.height + top), "white")
    page.paste(tiled, (left, top))
    draw = ImageDraw.Draw(page)
    for row, text in enumerate(rows):
        draw.text((MARGIN, top + (row + 0.5) * pitch[0]), text, fill="black", font=font, anchor="lm")
    for column, text in enumerate(heads):
        draw.text((left + (column + 0.5) * pitch[1], top / 2), text, fill="black", font=font, anchor="mm")
    with atomic_write(path) as file:
        page.save(file, format="PNG")


def read_mask(path: Path, *, size: int) -> Tensor:
    """White pixels of a mask, (1, 1, S, S) bool.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no picture, one of another size or with grey in it, or one all black or all white.
    """
    from .crops import opened  # here, so that commands show their help without Pillow

    if not path.is_file():
        raise FileNotFoundError(f"there is no mask {path}; expected a picture of {size}x{size} pixels, white and black")
    try:
        with path.open("rb") as file, opened(file) as picture:
            values = np.asarray(picture.convert("L"))
    except (OSError, ValueError) as error:
        raise ValueError(f"the mask {path} cannot be read as a picture ({error}); expected a PNG file") from error
    if values.shape != (size, size):
        height, width = values.shape
        raise ValueError(
            f"the mask {path} has {width}x{height} pixels, but the model makes {size}x{size}; draw it at that size, on "
            f"the centre crop"
        )
    grey = int(((values > 0) & (values < 255)).sum())
    if grey:
        raise ValueError(
            f"the mask {path} has {grey} pixels that are neither black (keep) nor white (make anew); save it as PNG "
            f"without smoothing"
        )
    fill = torch.from_numpy(values == 255)
    if bool(fill.all()) or not bool(fill.any()):
        said = "white, so nothing is kept" if bool(fill.all()) else "black, so nothing is made"
        raise ValueError(f"the mask {path} is all {said}; draw the part to be made in white on black")
    return rearrange(fill, "h w -> 1 1 h w")
