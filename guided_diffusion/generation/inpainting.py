"""Inpainting: images of which a part is made anew, and the rest is kept to the byte."""

from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..data.formats.samples import iterate_shards
from ..data.pictures import write_grid
from ..diffusion.images import from_uint8
from ..samplers import guided_sampler, repaint
from ..samplers.repaint import initial_state, masked, with_known_pixels
from .plan import MadeSamples, Plan, SampleBatch
from .run import SamplingRun

SHOWN = 16
"""Images in the comparison picture."""


@dataclass(frozen=True, kw_only=True)
class InpaintingRun:
    """A sampling run that fills in images (N, C, S, S) uint8 where `fill` (1, 1, S, S) bool."""

    run: SamplingRun
    images: Tensor
    fill: Tensor
    resample_steps: int = 1
    """Times that each link is taken; 1 leaves the run's own sampler."""

    def sample(self, batch: SampleBatch) -> MadeSamples:
        """The images of a batch, filled in."""
        run, fill = self.run, self.fill.to(self.run.device)
        originals = self.images[batch.ids.start : batch.ids.stop].to(run.device)
        known = from_uint8(originals)
        guided = run.guidance.denoiser(batch.y, clip=run.settings.sampler.clipping, ids=batch.ids)
        denoiser = with_known_pixels(guided, known, fill)
        term = run.guidance.term(batch.y, ids=batch.ids)
        term = None if term is None else masked(term, fill)
        x_T = initial_state(batch.noise(known), known, fill, run.chain)
        sampler = run.sampler
        if self.resample_steps > 1:
            sampler = guided_sampler(partial(repaint, resample_steps=self.resample_steps), "mean_shift")
        made = run.made(batch, sampler, denoiser, x_T, term)
        # From the originals themselves: to_uint8 truncates, and would darken known pixels by a grey level.
        return replace(made, images=torch.where(fill, made.images, originals))

    def manifest(self, plan: Plan) -> dict[str, Any]:
        """The run's manifest, and the task."""
        hashes = {"images": sha256(self.images.numpy().data), "mask": sha256(self.fill.numpy().data)}
        task = {name: value.hexdigest() for name, value in hashes.items()} | {"resample_steps": self.resample_steps}
        return self.run.manifest(plan) | {"inpainting": task}

    def write_comparison(self, directory: Path) -> None:
        """Write comparison.png: the first images, two a row, each as it was, with its filled part grey, and filled."""
        count = min(SHOWN, len(self.images))
        shards = iterate_shards(directory, stop=count)
        made = torch.cat([rearrange(torch.from_numpy(shard.images.copy()), "n h w c -> n c h w") for shard in shards])
        originals = self.images[:count]
        grey = torch.where(self.fill, 128, originals).to(torch.uint8)
        shown = rearrange([originals, grey, made], "three n c h w -> (n three) c h w")
        write_grid(directory / "comparison.png", shown, columns=6, heads=["original", "mask", "result"] * min(2, count))
