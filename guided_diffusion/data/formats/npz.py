"""Published batches of images, an npz of `arr_0` and maybe labels `arr_1`: what is wrong with one, and the remedy."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .npy import DAMAGED_FILE_ERRORS, npy_header, npy_rows, npz_members

_LOOKED_AT = 16
"""Images whose values say which range the others have, too."""


def stored_shape(path: Path) -> tuple[int, int, int, int]:
    """Shape (N, H, W, C) of the images of a batch, from its header.

    Raises:
        ValueError: a damaged file, one without images, or one whose images are not uint8 (N, H, W, 1 or 3); the message
            says how to make them so.
    """
    members = npz_members(path)
    if "arr_0" not in members:
        raise ValueError(
            f"{path} holds no images: expected the array arr_0, found {', '.join(sorted(members)) or 'nothing'}"
        )
    shape, dtype = npy_header(path, "arr_0")
    if len(shape) == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3):
        raise ValueError(
            f"{path} holds arr_0 with its axes in the order (N, C, H, W), {shape}; expected (N, H, W, C): save "
            f"arr_0.transpose(0, 2, 3, 1)"
        )
    if len(shape) != 4 or shape[3] not in (1, 3):
        raise ValueError(
            f"{path} must hold arr_0 as uint8 (N, H, W, C) with 1 or 3 channels in the last place, got {dtype} {shape}"
        )
    if shape[0] == 0:
        raise ValueError(f"{path} holds no images: arr_0 is empty")
    if dtype != np.uint8:
        raise ValueError(f"{path} must hold arr_0 as uint8 0..255, got {dtype}{_conversion(path, shape[0])}")
    num_images, height, width, channels = shape
    return num_images, height, width, channels


def stored_labels(path: Path, *, num_images: int) -> NDArray[np.int64] | None:
    """The labels (N,) of a batch; None if it has none.

    Raises:
        ValueError: something else than an integer for each image, or a damaged file.
    """
    if "arr_1" not in npz_members(path):
        return None
    shape, dtype = npy_header(path, "arr_1")
    if shape != (num_images,) or not np.issubdtype(dtype, np.integer):
        raise ValueError(f"{path} must hold arr_1 as {num_images} integer labels, got {dtype} {shape}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["arr_1"].astype(np.int64)
    except DAMAGED_FILE_ERRORS as error:
        raise ValueError(f"{path} is damaged: arr_1 cannot be read ({error}); make or fetch it again") from error


def _conversion(path: Path, num_images: int) -> str:
    """What the first images hold instead, and how it becomes uint8."""
    (_, values), *_ = npy_rows(path, "arr_0", start=0, stop=min(num_images, _LOOKED_AT))
    low, high = values.min(), values.max()
    held = f": its first {len(values)} images hold values from {low:.4g} to {high:.4g}"
    if not np.isfinite([low, high]).all():
        return f"{held}; not all are finite: make them again"
    if -1.5 <= low < 0 and high <= 1.5:
        return f"{held}; if they mean -1..1, save ((arr_0 + 1) * 127.5).clip(0, 255).astype(np.uint8), as published"
    if low >= 0 and high <= 1.5:
        return f"{held}; if they mean 0..1, save (arr_0 * 255).round().clip(0, 255).astype(np.uint8)"
    if low >= 0 and high <= 255:
        return f"{held}; save arr_0.round().astype(np.uint8)"
    return f"{held}, a range that images do not have: bring them to 0..255, then save .round().astype(np.uint8)"
