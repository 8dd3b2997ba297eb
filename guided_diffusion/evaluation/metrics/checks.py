"""Checks of the matrices that metrics take."""

import torch
from torch import Tensor


def check_rows(values: Tensor, name: str) -> None:
    """Refuse what is not a matrix of finite numbers with a row for each image.

    Raises:
        ValueError: another shape, no rows, or values that are not finite.
    """
    if values.ndim != 2 or values.numel() == 0:
        raise ValueError(f"{name} must be a non-empty matrix, one row per image, got shape {tuple(values.shape)}")
    # Extremes are nan if any value is. To ask each value takes 400 MB for 50,000 Inception features.
    if not torch.isfinite(torch.stack(values.aminmax())).all():
        raise ValueError(f"{name} must be finite")


def check_comparable(*, real: Tensor, generated: Tensor) -> None:
    """Refuse what is not features (N, D) and (M, D) of two sets.

    Raises:
        ValueError: as `check_rows`, or features of different widths.
    """
    check_rows(real, "real features")
    check_rows(generated, "generated features")
    if real.shape[1] != generated.shape[1]:
        raise ValueError(f"features of shapes {tuple(real.shape)} and {tuple(generated.shape)} cannot be compared")
