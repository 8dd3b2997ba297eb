"""Square pixels of an image file: opening, turning upright, conversion to grey or colour, and the published crops."""

import io
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from .config import CHANNELS, Mode, Window
from .formats.tree import EXTENSIONS
from .values import UnknownRangeError, is_deep, to_8_bits

if find_spec("pillow_heif") is not None:  # whoever has it installed has HEIC files
    import_module("pillow_heif").register_heif_opener()

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientations and what undoes them."""
_HOLDERS_OF_EXIF = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
"""Keys of Pillow's `info` under which an orientation may stand; looking there first takes no time."""
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
"""Tag of TIFF, and its value where the smallest number is white."""
_PIECE = 1 << 20
_ANY_IMAGE = 32 << 20
"""Bytes that an image file may have, whatever its header says."""
_MOST_BYTES_A_PIXEL = 16


class DamagedImageError(ValueError):
    """A file that is there but cannot be decoded; the message names it and the decoder's complaint."""

    def __init__(self, complaint: str, *, remedy: str = "repair or remove the file") -> None:
        super().__init__(complaint)
        self.remedy = remedy


def center_crop(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """The published centre crop: uint8 (size, size, C), C = 1 for mode L, 3 for RGB and 4 for RGBA.

    The shorter side is brought to `size` (also upwards, for an image smaller than it), halving by box means while twice
    too large, then bicubic; the middle square is cut out.
    """
    resized = _with_shorter_side(image, size)
    return _square(resized, size, x=(resized.width - size) // 2, y=(resized.height - size) // 2)


def random_crop(image: Image.Image, size: int, *, rng: random.Random) -> NDArray[np.uint8]:
    """The published random crop: uint8 (size, size, C), C = 1 for mode L, 3 for RGB and 4 for RGBA.

    Draws from `rng`, in this order: the shorter side in pixels, uniform over size to size / 0.8, rounded up; then
    y and x of the crop, uniform over what fits.
    """
    resized = _with_shorter_side(image, rng.randrange(size, math.ceil(size / 0.8) + 1))
    y = rng.randrange(resized.height - size + 1)
    x = rng.randrange(resized.width - size + 1)
    return _square(resized, size, x=x, y=y)


def _with_shorter_side(image: Image.Image, side: int) -> Image.Image:
    if image.mode not in CHANNELS:
        raise ValueError(f"crops take images of mode L, RGB or RGBA, not {image.mode}; convert the image first")
    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = side / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def _square(image: Image.Image, size: int, *, x: int, y: int) -> NDArray[np.uint8]:
    # np.array, not asarray: a view of Pillow's buffer is read-only, which torch warns about.
    return np.array(image.crop((x, y, x + size, y + size))).reshape(size, size, CHANNELS[image.mode])


def opened(file: IO[bytes]) -> Image.Image:
    """The image whose header is in a file; only of the formats of `EXTENSIONS`, since Pillow runs Ghostscript for EPS.

    Raises:
        ValueError: content of another format, named where Pillow knows it.
    """
    formats = _formats()
    with suppress(UnidentifiedImageError):
        return Image.open(file, formats=formats)
    file.seek(0)
    start, found = file.read(16), "no known image format"
    for kind, (_, accept) in Image.OPEN.items():
        with suppress(Exception):  # of recognisers, at files of a few bytes
            if kind not in formats and accept is not None and accept(start) is True:
                found = f"the format {kind}, which is not read"
    raise ValueError(f"its content is of {found}")


@cache
def _formats() -> list[str]:
    """Pillow's names of the formats of `EXTENSIONS`, in the order in which it tries them."""
    kinds = Image.registered_extensions()
    return [kind for kind in Image.ID if kind in {kinds.get(extension) for extension in EXTENSIONS}]


def decoded(file: IO[bytes], *, mode: Mode, window: Window | None = None) -> Image.Image:
    """The image in `mode`, turned as its EXIF orientation says; the first frame of several.

    Pixels with alpha are composited over white, unless `mode` keeps it (the published code drops alpha, which shows
    whatever colour lies under transparent pixels; opaque images come out the same). Of 16-bit colour the high byte is
    kept, of grey with more than 8 bits what `to_8_bits` makes of it. Palette, CMYK and the rest convert as Pillow does.
    Call it within `damage_named`.
    """
    with opened(io.BytesIO(encoded_bytes(file))) as image:
        image.load()
        # Pillow inverts such TIFF files itself where they have 8 bits.
        is_negative = is_deep(image.mode) and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    turn = orientation(image)
    image = image.transpose(_UPRIGHT[turn]) if turn in _UPRIGHT else image
    if is_deep(image.mode):
        pixels = to_8_bits(np.asarray(image), window)
        return Image.fromarray(255 - pixels if is_negative else pixels).convert(mode)
    has_alpha = image.mode in ("RGBA", "LA", "PA") or (image.mode == "P" and "transparency" in image.info)
    if has_alpha and mode != "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert(mode)


def encoded_bytes(file: IO[bytes]) -> bytes:
    """All bytes of an image file; refused, before they take memory, are more than the pixels of its header can need.

    It is read whole, since an archive checks a member's sum at its end, which decoders do not always reach.
    """
    content, most, size = bytearray(), _ANY_IMAGE, None
    while piece := file.read(_PIECE):
        content += piece
        if len(content) > most and size is None:
            file.seek(0)
            with opened(file) as image:
                size, frames = image.size, getattr(image, "n_frames", 1)
                most += _MOST_BYTES_A_PIXEL * math.prod(size) * frames
            file.seek(len(content))
        if len(content) > most and size is not None:
            raise ValueError(f"its header tells of {size[0]}x{size[1]} pixels, but more than {most:,} bytes follow")
    return bytes(content)


def orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) to 8; 1 as well where the EXIF data cannot be read."""
    if not _HOLDERS_OF_EXIF & image.info.keys() and image.format != "TIFF":
        return 1
    with suppress(Exception):  # of parsers of EXIF and XMP: pixels are sound whatever a camera wrote beside them
        # Not PngImageFile's own method, which decodes all pixels in search of EXIF data behind them.
        turn = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
        return turn if turn in _UPRIGHT else 1
    return 1


def has_more_frames(image: Image.Image) -> bool:
    """True for an animation or a file of several pages; the second picture of a photograph (MPO) is none."""
    with suppress(Exception):
        return image.format != "MPO" and getattr(image, "is_animated", False)
    return False


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn errors of a decoder into DamagedImageError; the storage's own failures pass as OSError, with the path."""
    try:
        yield
    except MemoryError:
        raise
    except UnknownRangeError as cause:
        advice = "give the values of black and white, --data.window BLACK WHITE (evaluate.py: --protocol.window)"
        raise UnknownRangeError(f"{path} {cause}; {advice}") from cause
    except Image.DecompressionBombError as cause:
        size = ValueError(str(cause).partition(", could")[0])  # which goes on about an attack
        raise DamagedImageError(f"{path} is too large to be read ({size})", remedy="make it smaller") from size
    except OSError as cause:
        if cause.errno is not None:  # the operating system spoke; Pillow's own OSErrors carry no number
            raise OSError(cause.errno, f"could not read an image: {cause.strerror}", str(path)) from cause
        raise DamagedImageError(f"{path} is not a readable image ({cause})") from cause
    except Exception as cause:  # decoders raise SyntaxError, struct.error, zlib.error, DecompressionBombError, ...
        reason = cause if type(cause) is ValueError else f"{type(cause).__name__}: {cause}"
        raise DamagedImageError(f"{path} is not a readable image ({reason})") from cause
