"""Pictures beside the shards: a grid of the first samples, and the denoising of a few as an animation."""

from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from ..data.formats.samples import NO_LABEL, iterate_shards, read_labels, read_manifest
from ..data.pictures import picture, write_grid
from ..diffusion.denoiser import Estimate
from ..diffusion.images import grid, to_uint8
from ..files import atomic_write
from .plan import Plan, batches_of
from .run import SamplingRun

MOST_FRAMES = 60
WHITE = 255


def write_class_grid(path: Path, directory: Path, *, columns: int = 10, rows: int = 10) -> None:
    """Write the first samples of each class, a row each under its name; without classes, the first samples."""
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
    blank = torch.full_like(per_label[wanted[0]][0], WHITE)
    tiles = [tile for images in per_label.values() for tile in images + [blank] * (longest - len(images))]
    names: list[str] = read_manifest(directory).get("class_names") or []
    captions = [names[label] if 0 <= label < len(names) else "no class" for label in wanted] if is_labelled else []
    images = rearrange(torch.stack(tiles), "n h w c -> n c h w")
    write_grid(path, images, columns=longest if is_labelled else columns, rows=captions)


class Film:
    """States and estimates that a sampler passes through, as uint8; an `OnStep`."""

    def __init__(self, num_links: int) -> None:
        """num_links: of the chain; if more than MOST_FRAMES, every second, third, .. is kept, and the last."""
        self._every = -(-num_links // MOST_FRAMES)
        self._frames: list[tuple[Tensor, Tensor]] = []

    def __call__(self, k: int, x: Tensor, estimate: Estimate) -> None:
        if k % self._every == 0:
            self._frames.append((to_uint8(x).cpu(), to_uint8(estimate.x0).cpu()))

    def frames(self) -> tuple[Tensor, Tensor]:
        """States x_t and estimates of x_0, each (T, B, C, H, W) uint8."""
        states, estimates = zip(*self._frames, strict=True)
        return torch.stack(states), torch.stack(estimates)


def write_animation(path: Path, run: SamplingRun, plan: Plan, *, count: int) -> None:
    """Sample ids 0 .. count - 1 once more and write their denoising as an animated WebP, x_t beside E[x_0 | x_t]."""
    films: list[tuple[Tensor, Tensor]] = []
    for ids in batches_of(range(count), run.samples_at_a_time):
        film = Film(len(run.chain))
        run.sample(plan.batch(ids, device=run.device, on_step=film))
        films.append(film.frames())
    states, estimates = (torch.cat(batches, dim=1) for batches in zip(*films, strict=True))
    columns = max(1, round(count**0.5))
    grids = [(grid(x_t, columns=columns), grid(x0, columns=columns)) for x_t, x0 in zip(states, estimates, strict=True)]
    channels, height, width = grids[0][0].shape
    gap = torch.full((channels, height, width // columns // 2), WHITE, dtype=torch.uint8)
    frames = [picture(torch.cat([left, gap, right], dim=2)) for left, right in grids]
    milliseconds = [80] * (len(frames) - 1) + [2000]
    how = {"append_images": frames[1:], "duration": milliseconds, "loop": 0, "lossless": True}
    with atomic_write(path) as file:
        frames[0].save(file, format="WEBP", save_all=True, **how)
