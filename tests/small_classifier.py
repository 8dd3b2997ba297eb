"""A small network and pictures for it, as a user brings them to guidance by a classifier of clean images."""

import torch
from torch import nn


def pictures(count: int = 3, *, channels: int = 3, side: int = 24) -> torch.Tensor:
    """Random images (count, channels, side, side) in [-1, 1]."""
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def small() -> nn.Module:
    """A network with batch normalisation, whose batches must not mix."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 2),
    )  # fmt: skip
