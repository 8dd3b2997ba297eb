"""Conversion of images between float [-1, 1] and uint8 0..255, and grids of images."""

import torch
from einops import rearrange
from torch import Tensor


def to_uint8(images: Tensor) -> Tensor:
    """Float images, nominally in [-1, 1], as uint8 0..255 of the same shape.

    The published code's rule: (x + 1) * 127.5, clamped, then truncated, not rounded.

    Raises:
        ValueError: values that are not finite, which would become black.
    """
    if not images.isfinite().all():
        raise ValueError("images hold values that are not finite, which are no pixels")
    return ((images + 1) * 127.5).clamp(0, 255).to(torch.uint8)


def from_uint8(images: Tensor) -> Tensor:
    """uint8 0..255 as float32 in [-1, 1], u / 127.5 - 1. `to_uint8` does not always invert it: truncation."""
    return images.float() / 127.5 - 1


def is_constant(images: Tensor) -> Tensor:
    """True for each image (B, C, H, W) of one colour: (B,) bool."""
    channels = images.flatten(2)
    return (channels.amin(dim=2) == channels.amax(dim=2)).all(dim=1)


def grid(images: Tensor, *, columns: int, padding: int = 1) -> Tensor:
    """uint8 images (N, C, H, W) tiled row by row, (C, rows * (H + padding) + padding, ..), white between them.

    Raises:
        ValueError: no images, or no columns.
    """
    if not len(images) or columns < 1:
        raise ValueError(f"a grid needs at least one image and one column, got {len(images)} and {columns}")
    rows = -(-len(images) // columns)
    missing = rows * columns - len(images)
    blank = images.new_full((missing, *images.shape[1:]), 255)
    padded = torch.nn.functional.pad(torch.cat([images, blank]), (padding, 0, padding, 0), value=255)
    tiled = rearrange(padded, "(rows columns) c h w -> c (rows h) (columns w)", rows=rows)
    return torch.nn.functional.pad(tiled, (0, padding, 0, padding), value=255)
