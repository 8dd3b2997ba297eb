"""The picture that a sampling run leaves beside its shards."""

from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from ..data.shards import iterate_shards
from ..images import grid
from .plan import Plan


def class_grid(directory: Path, plan: Plan, *, columns: int = 10, rows: int = 10) -> Tensor:
    """The first samples of each class asked for, a row each (of at most ten), or just the first samples."""
    asked = (-1,) if plan.labels is None else plan.labels[: plan.num_samples]
    wanted = sorted(set(asked))[:rows]
    per_label: dict[int, list[Tensor]] = {label: [] for label in wanted}
    most = columns if plan.labels else columns * rows
    for shard in iterate_shards(directory):
        for image, label in zip(shard.images, shard.labels.tolist(), strict=True):
            if label in per_label and len(per_label[label]) < most:
                per_label[label].append(torch.from_numpy(image.copy()))
        if all(len(images) == most for images in per_label.values()):
            break
    longest = max(len(images) for images in per_label.values())
    blank = torch.full_like(per_label[wanted[0]][0], 255)
    tiles = [tile for images in per_label.values() for tile in images + [blank] * (longest - len(images))]
    return grid(rearrange(torch.stack(tiles), "n h w c -> n c h w"), columns=longest if plan.labels else columns)
