"""The denoising of a few samples as a moving picture."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..data.pictures import picture
from ..diffusion.denoiser import Estimate
from ..diffusion.images import grid, to_uint8
from ..files import atomic_write
from .plan import cut
from .shard_writer import MakeImages

MOST_FRAMES = 60
FRAME_MILLISECONDS = 80
LAST_FRAME_MILLISECONDS = 2000
WHITE = 255


class Film:
    """What a sampler passes through, remembered: an `OnStep`. Its frames are uint8, x_t beside the estimate of x_0."""

    def __init__(self, num_links: int) -> None:
        """num_links: of the chain; of more than MOST_FRAMES only every second, third, .. is kept, and the last."""
        self._every = -(-num_links // MOST_FRAMES)
        self._frames: list[tuple[Tensor, Tensor]] = []

    def __call__(self, k: int, x: Tensor, estimate: Estimate) -> None:
        if k % self._every == 0:
            self._frames.append((to_uint8(x).cpu(), to_uint8(estimate.x0).cpu()))

    def frames(self) -> tuple[Tensor, Tensor]:
        """States x_t and estimates of x_0, each (T, B, C, H, W) uint8."""
        states, estimates = zip(*self._frames, strict=True)
        return torch.stack(states), torch.stack(estimates)


def write_animation(path: Path, make_images: MakeImages, *, count: int, batch_size: int, num_links: int) -> None:
    """Make the samples 0 .. count - 1 once more and write their denoising as an animated WebP, whole or not at all."""
    films: list[tuple[Tensor, Tensor]] = []
    for ids in cut(range(count), batch_size):
        film = Film(num_links)
        make_images(ids, film)
        films.append(film.frames())
    states, estimates = (torch.cat(parts, dim=1) for parts in zip(*films, strict=True))
    columns = max(1, round(count**0.5))
    frames = [_frame(x_t, x0, columns=columns) for x_t, x0 in zip(states, estimates, strict=True)]
    durations = [FRAME_MILLISECONDS] * (len(frames) - 1) + [LAST_FRAME_MILLISECONDS]
    with atomic_write(path) as file:
        frames[0].save(
            file, format="WEBP", save_all=True, append_images=frames[1:], duration=durations, loop=0, lossless=True
        )


def _frame(x_t: Tensor, x0: Tensor, *, columns: int) -> Image.Image:
    left, right = grid(x_t, columns=columns), grid(x0, columns=columns)
    between = left.new_full((*left.shape[:2], left.shape[2] // columns // 2), WHITE)
    return picture(torch.cat([left, between, right], dim=2))
