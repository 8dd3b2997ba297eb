"""Values of pixels: grey of more than 8 bits brought to 0..255, and sets that fill a small part of that range."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .config import Window

_DEEP_MODES = ("F", "I")
"""Beginnings of Pillow's modes of grey with more than 8 bits: F, I, I;16, I;16B, .."""
LOOKED_AT = 16
"""Images of a set whose values are looked at."""
_OUTLIERS = 0.001
"""Share of pixels that may lie below, and above, the range that nearly all lie in."""
_NARROW = 64
"""Grey levels: a set that fills fewer is doubted. 14 bits stored in 16 fill exactly 64, with the outliers fewer."""


class UnknownRangeError(ValueError):
    """Values of which nothing says what is black and white: floats, negative numbers, or more than 16 bits."""


def is_deep(mode: str | None) -> bool:
    """True for Pillow's modes of grey with more than 8 bits a pixel."""
    return mode is not None and mode.startswith(_DEEP_MODES)


def to_8_bits(levels: NDArray, window: Window | None) -> NDArray[np.uint8]:
    """Grey levels (H, W) of any type as uint8, those of the window linear to 0..255, rounded, and clipped outside it.

    window: None keeps the high byte of 16 bits, as Pillow does with 16-bit colour.

    Raises:
        UnknownRangeError: values that are not 16-bit, without a window.
        ValueError: NaN or infinite values.
    """
    if not np.isfinite(levels).all():
        raise ValueError("it has values that are NaN or infinite")
    if window is not None:
        black, white = window
        scaled = (levels.astype(np.float64) - black) * 255 / (white - black)
        return (scaled.clip(0, 255) + 0.5).astype(np.uint8)
    if levels.dtype.kind == "f" or levels.min() < 0 or levels.max() > 0xFFFF:
        raise UnknownRangeError(f"has values from {levels.min():.6g} to {levels.max():.6g}, of no known range")
    return (levels >> 8).astype(np.uint8)


def value_doubts(images: Sequence[NDArray[np.uint8]], *, path: Path, window: Window | None, is_deep: bool) -> list[str]:
    """A sentence about images of a set if their values nearly all lie in a small part of 0..255.

    path, window, is_deep: of the set, for the advice; deep: it has grey of more than 8 bits.
    """
    if not images:
        return []
    counts = sum((np.bincount(image.ravel(), minlength=256) for image in images), np.zeros(256, np.int64))
    share = np.array((_OUTLIERS, 1 - _OUTLIERS)) * counts.sum()
    low, high = np.searchsorted(np.cumsum(counts), share).tolist()
    if high - low >= _NARROW:
        return []
    advice = "stretch them to 0..255"
    if is_deep and window is not None:
        advice = "give a --data.window that fits them"
    elif is_deep:
        black, white = (0, 256 << high.bit_length()) if low < _NARROW // 2 else (low << 8, (high + 1) << 8)
        advice = f"--data.window {black} {white - 1} stretches them (evaluate.py: --protocol.window)"
    return [
        f"nearly all values of {path} lie in {low}..{high} of 0..255 ({len(images)} images looked at), which leaves a "
        f"network little contrast; {advice}"
    ]


def preprocessing(*steps: str, window: Window | None = None, turned: int = 0) -> str:
    """The conversion of pictures in words, as protocols and records keep it; empty steps are left out."""
    values = "" if window is None else f"values {window[0]:g}..{window[1]:g} to 0..255"
    upright = f"{turned} turned upright by their EXIF orientation" if turned else ""
    return "; then ".join(filter(None, (values, upright, *steps)))
