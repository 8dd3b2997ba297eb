"""Square pixels of an image file: decoding, conversion to grey or colour, and the published crops."""

import io
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from .config import CHANNELS, Mode


class DamagedImageError(ValueError):
    """A file that is there but cannot be decoded; the message names it and the decoder's complaint."""


def center_crop(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """The published centre crop: uint8 (size, size, C), C = 1 for mode L and 3 for RGB.

    The shorter side is brought to `size` (also upwards, for an image smaller than it), halving by box means while twice
    too large, then bicubic; the middle square is cut out.
    """
    resized = _with_shorter_side(image, size)
    return _square(resized, size, x=(resized.width - size) // 2, y=(resized.height - size) // 2)


def random_crop(image: Image.Image, size: int, *, rng: random.Random) -> NDArray[np.uint8]:
    """The published random crop: uint8 (size, size, C), C = 1 for mode L and 3 for RGB.

    Draws from `rng`, in this order: the shorter side in pixels, uniform over size to size / 0.8, rounded up; then
    y and x of the crop, uniform over what fits.
    """
    resized = _with_shorter_side(image, rng.randrange(size, math.ceil(size / 0.8) + 1))
    y = rng.randrange(resized.height - size + 1)
    x = rng.randrange(resized.width - size + 1)
    return _square(resized, size, x=x, y=y)


def _with_shorter_side(image: Image.Image, side: int) -> Image.Image:
    if image.mode not in CHANNELS:
        raise ValueError(f"crops take images of mode L or RGB, not {image.mode}; convert the image first")
    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = side / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def _square(image: Image.Image, size: int, *, x: int, y: int) -> NDArray[np.uint8]:
    # np.array, not asarray: a view of Pillow's buffer is read-only, which torch warns about.
    return np.array(image.crop((x, y, x + size, y + size))).reshape(size, size, CHANNELS[image.mode])


def decoded(file: IO[bytes], *, mode: Mode) -> Image.Image:
    """The image in `mode`; the first frame of an animation; EXIF rotation is not applied, as published.

    Pixels with alpha are composited over white (the published code drops alpha, which shows whatever colour lies under
    transparent pixels; opaque images come out the same). Of 16-bit grey the high byte is kept, as Pillow does with
    16-bit colour. Palette, CMYK and the rest convert as Pillow does. Call it within `damage_named`.
    """
    # Read whole: an archive checks a member's sum at its end, which decoders do not always reach.
    with Image.open(io.BytesIO(file.read())) as image:
        image.load()
    if image.mode == "F":
        raise ValueError("32-bit float pixels have no known range")
    if image.mode.startswith("I"):
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 0xFFFF:
            raise ValueError(f"grey levels {levels.min()}..{levels.max()} are not 16-bit")
        return Image.fromarray((levels >> 8).astype(np.uint8)).convert(mode)
    if image.mode in ("RGBA", "LA", "PA") or (image.mode == "P" and "transparency" in image.info):
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert(mode)


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn errors of a decoder into DamagedImageError; the storage's own failures pass as OSError, with the path."""
    try:
        yield
    except MemoryError:
        raise
    except UnidentifiedImageError as cause:  # whose own text describes a Python object
        raise DamagedImageError(f"{path} is not a readable image (its content is of no known image format)") from cause
    except OSError as cause:
        if cause.errno is not None:  # the operating system spoke; Pillow's own OSErrors carry no number
            raise OSError(cause.errno, f"could not read an image: {cause.strerror}", str(path)) from cause
        raise DamagedImageError(f"{path} is not a readable image ({cause})") from cause
    except Exception as cause:  # decoders raise SyntaxError, struct.error, zlib.error, DecompressionBombError, ...
        raise DamagedImageError(f"{path} is not a readable image ({type(cause).__name__}: {cause})") from cause
