"""The picture that a sampling run leaves beside its shards."""

from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from ..data.formats.samples import NO_LABEL, iterate_shards, read_labels
from ..diffusion.images import grid


def class_grid(directory: Path, *, columns: int = 10, rows: int = 10) -> Tensor:
    """The first samples of each class that was made, a row each, or just the first samples: (C, H, W) uint8.

    Raises:
        ValueError: shards that are missing or damaged.
    """
    wanted = sorted(set(read_labels(directory).tolist()))[:rows]
    is_labelled = wanted != [NO_LABEL]
    per_label: dict[int, list[Tensor]] = {label: [] for label in wanted}
    most = columns if is_labelled else columns * rows
    for shard in iterate_shards(directory):
        for image, label in zip(shard.images, shard.labels.tolist(), strict=True):
            if label in per_label and len(per_label[label]) < most:
                per_label[label].append(torch.from_numpy(image.copy()))
        if all(len(images) == most for images in per_label.values()):
            break
    longest = max(len(images) for images in per_label.values())
    blank = torch.full_like(per_label[wanted[0]][0], 255)
    tiles = [tile for images in per_label.values() for tile in images + [blank] * (longest - len(images))]
    return grid(rearrange(torch.stack(tiles), "n h w c -> n c h w"), columns=longest if is_labelled else columns)
