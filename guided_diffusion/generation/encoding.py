"""Encoding by DDIM: images to latents and back, and interpolation between latents (DDIM sections 4.3, 5.3)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from einops import rearrange
from torch import Tensor
from tqdm import tqdm

from ..diffusion.chain import DiffusionChain
from ..diffusion.denoiser import Denoiser
from ..diffusion.images import from_uint8, to_uint8
from ..diffusion.model import DiffusionModel
from ..diffusion.noise import SeededNoise
from ..samplers import OnStep, SamplerConfig, ddim, ddim_reverse
from .finiteness import finite_samples, likeliest_cause
from .plan import batches_of

LARGEST_PSNR = 100.0
"""dB; of images that come back exactly, whose logarithm would be infinite."""


@dataclass(frozen=True, kw_only=True)
class Codec:
    """A diffusion model as an approximately invertible map between images and latents.

    Labels (N,) condition a conditional model; an unconditional one ignores them.
    """

    model: DiffusionModel
    sampler: SamplerConfig
    """Timesteps and clipping."""
    batch_size: int = 64

    @cached_property
    def chain(self) -> DiffusionChain:
        """The noise levels that are visited."""
        return self.sampler.levels(self.model.config.chain)

    def encode(self, images: Tensor, labels: Tensor) -> Tensor:
        """Latents (N, C, S, S) float32 of images (N, C, S, S) uint8.

        Raises:
            ValueError: latents that are not finite, naming the likeliest cause; `decode` refuses such images as well.
        """

        def latents(denoiser: Denoiser, pixels: Tensor, on_step: OnStep) -> Tensor:
            return ddim_reverse(denoiser, self.chain, from_uint8(pixels), on_step=on_step)

        return self._mapped(latents, images, labels, "encoding")

    def decode(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Images (N, C, S, S) uint8 of latents (N, C, S, S), by deterministic DDIM."""

        def images(denoiser: Denoiser, x_T: Tensor, on_step: OnStep) -> Tensor:
            return ddim(denoiser, self.chain, x_T, SeededNoise(0, range(len(x_T))), on_step=on_step)

        return to_uint8(self._mapped(images, latents, labels, "decoding"))

    def interpolations(self, latents: Tensor, labels: Tensor, *, count: int, frames: int) -> Tensor:
        """Images (count * frames, C, S, S) uint8 between `count` pairs of latents, half of all latents apart.

        A conditional model is conditioned on the class of the nearer end.
        """
        half = len(latents) // 2
        ends = (slice(0, count), slice(half, half + count))
        shares = torch.linspace(0, 1, frames).tolist()
        path = [spherical(latents[ends[0]], latents[ends[1]], share) for share in shares]
        nearer = torch.stack([labels[ends[share > 0.5]] for share in shares], dim=1).flatten()
        return self.decode(rearrange(path, "frames n c h w -> (n frames) c h w"), nearer)

    def _mapped(
        self, mapping: Callable[[Denoiser, Tensor, OnStep], Tensor], values: Tensor, labels: Tensor, desc: str
    ) -> Tensor:
        device, mapped = self.model.device, list[Tensor]()
        for ids in tqdm(list(batches_of(range(len(values)), self.batch_size)), desc=desc):
            batch, y = (rows[ids.start : ids.stop].to(device) for rows in (values, labels))
            call = partial(mapping, self.model.denoiser(y, clip=self.sampler.clipping), batch)
            mapped.append(finite_samples(call, ids, cause=partial(likeliest_cause, [self.model])).cpu())
        return torch.cat(mapped)


def spherical(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Latents (B, C, H, W) at a share of the way from `first` to `second` on a great circle (DDIM eq. 67).

    A straight line would pass through latents that are shorter than noise is. Latents on one line are interpolated
    along it, where the angle is 0.
    """
    flat_1, flat_2 = first.double().flatten(1), second.double().flatten(1)
    cosine = torch.nn.functional.cosine_similarity(flat_1, flat_2, dim=1).clamp(-1, 1)
    angle = cosine.acos().reshape(-1, *(1,) * (first.ndim - 1))
    sine = angle.sin()
    is_line = sine < 1e-6  # of the angle's order, where float64 keeps half of the digits of its cosine
    weight_1 = torch.where(is_line, 1 - share, ((1 - share) * angle).sin() / sine)
    weight_2 = torch.where(is_line, share, (share * angle).sin() / sine)
    return (weight_1 * first.double() + weight_2 * second.double()).to(first.dtype)


def mean_grey_levels(images: Tensor, others: Tensor) -> Tensor:
    """Mean absolute difference of uint8 images, (N,) float64."""
    return (images.double() - others.double()).abs().flatten(1).mean(dim=1)


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of uint8 images, dB, (N,) float64."""
    mse = ((images.double() - others.double()) ** 2).flatten(1).mean(dim=1)
    return (20 * math.log10(255) - 10 * mse.log10()).clamp(max=LARGEST_PSNR)
