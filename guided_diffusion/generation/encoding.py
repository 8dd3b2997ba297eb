"""The encoding command: images to DDIM's latents, back again, and from one to another (DDIM section 4.3, 5.3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from tqdm import tqdm

from ..data.config import DataConfig
from ..data.pictures import write_png
from ..data.subset import evenly_spaced
from ..diffusion.chain import DiffusionChain
from ..diffusion.images import from_uint8, grid, to_uint8
from ..diffusion.model import DiffusionModel, load_diffusion, weights_record
from ..diffusion.noise import SeededNoise
from ..distributed import default_device
from ..files import atomic_write, write_json
from ..samplers import SamplerConfig, ddim, ddim_reverse
from ..samplers.config import check_clip
from .config import RunConfig
from .input_images import open_given, read_given

LARGEST_PSNR = 100.0
"""dB; of images that come back exactly, of which the logarithm would be infinite."""


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """Turn images into DDIM's latents and back, and interpolate between them."""

    diffusion: Path
    """Run directory or checkpoint of the diffusion model."""
    data: DataConfig
    """Images; centre crops, not mirrored. Without classes: one folder of all, or --data.labels filenames."""
    out: Path
    """Directory for latents.npz, encoding.json, reconstructions.png and interpolations.png; rewritten."""
    max_images: int = 64
    """Of more, this many are taken, evenly spaced."""
    steps: int | str = 250
    """How many timesteps of DDIM, or which, as in scripts/sample.py; the more, the closer images come back."""
    interpolations: int = 8
    """Pairs of images to interpolate between: image i and the one half of the images further on. 0: none."""
    frames: int = 9
    """Images from one end of an interpolation to the other, both ends included."""
    clip: float | None = RunConfig.clip
    """Estimates of x_0 are clamped to [-clip, clip]; null leaves them, and images come back less well."""
    weights: str | None = None
    """Weights of the checkpoint, such as ema_0.9999 or network; null: its slowest average."""
    batch_size: int = 64
    """Images at a time."""

    def __post_init__(self) -> None:
        for name, least in (("max_images", 1), ("batch_size", 1), ("interpolations", 0), ("frames", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        check_clip(self.clip)


@dataclass(frozen=True)
class Encoded:
    """Images (N, C, S, S) uint8 with their labels (N,), latents float32, and what these become again, uint8."""

    images: Tensor
    labels: Tensor
    latents: Tensor
    reconstructions: Tensor


def encode(config: EncodeConfig) -> None:
    """Write latents, their record and the pictures, and print how well the images come back.

    Raises:
        FileNotFoundError, ValueError: as `load_diffusion` and `open_given`; steps that the chain has not.
    """
    model = load_diffusion(config.diffusion, weights=config.weights, device=default_device())
    chain = SamplerConfig(name="ddim", steps=config.steps).levels(model.config.chain)
    dataset = open_given(config.data, model, class_names=model.config.class_names or None)
    indices = evenly_spaced(len(dataset), most=config.max_images)
    found = encoded(model, chain, *read_given(dataset, indices), clip=config.clip, batch_size=config.batch_size)
    with atomic_write(config.out / "latents.npz") as file:
        np.savez(file, latents=found.latents.numpy(), labels=found.labels.numpy(), images=found.images.numpy())
    paths = dataset.paths
    record = _record(found, [str(paths[index]) for index in indices])
    settings = {"steps": config.steps, "links": len(chain), "clip": config.clip}
    write_json(config.out / "encoding.json", {"diffusion": weights_record(model), "settings": settings} | record)
    pairs = rearrange([found.images, found.reconstructions], "two n c h w -> (n two) c h w")
    write_png(config.out / "reconstructions.png", grid(pairs[:128], columns=8))
    count = min(config.interpolations, len(indices) // 2)
    if count:
        write_png(config.out / "interpolations.png", _interpolations(model, chain, found, config, count=count))
    print(
        f"{len(indices)} images by {len(chain)} links and back: off by {record['mean_grey_levels']:.3g} grey levels on "
        f"average, PSNR {record['mean_psnr']:.4g} dB, the worst {record['worst_psnr']:.4g} dB; written to {config.out}"
    )


def _record(found: Encoded, files: Sequence[str]) -> dict[str, Any]:
    """How well images come back, all together and each; plain values."""
    psnr, levels = _psnr(found.images, found.reconstructions), _grey_levels(found.images, found.reconstructions)
    columns = zip(files, found.labels.tolist(), psnr.tolist(), levels.tolist(), strict=True)
    return {
        "mean_psnr": float(psnr.mean()),
        "worst_psnr": float(psnr.min()),
        "mean_grey_levels": float(levels.mean()),
        "images": [dict(zip(("file", "label", "psnr", "grey_levels"), row, strict=True)) for row in columns],
    }


def encoded(
    model: DiffusionModel, chain: DiffusionChain, images: Tensor, labels: Tensor, *, clip: float | None, batch_size: int
) -> Encoded:
    """Images (N, C, S, S) uint8 encoded along `chain` and decoded again; labels (N,) are for conditional models."""
    latents: list[Tensor] = []
    for pixels, y in zip(tqdm(images.split(batch_size), desc="encoding"), labels.split(batch_size), strict=True):
        device = next(model.network.parameters()).device
        denoiser = model.denoiser(y.to(device), clip=clip)
        latents.append(ddim_reverse(denoiser, chain, from_uint8(pixels.to(device))).cpu())
    joined = torch.cat(latents)
    return Encoded(images, labels, joined, decoded(model, chain, joined, labels, clip=clip, batch_size=batch_size))


def decoded(
    model: DiffusionModel,
    chain: DiffusionChain,
    latents: Tensor,
    labels: Tensor,
    *,
    clip: float | None,
    batch_size: int,
) -> Tensor:
    """Images (N, C, S, S) uint8 that deterministic DDIM makes of latents (N, C, S, S)."""
    made: list[Tensor] = []
    for x_T, y in zip(tqdm(latents.split(batch_size), desc="decoding"), labels.split(batch_size), strict=True):
        device = next(model.network.parameters()).device
        denoiser = model.denoiser(y.to(device), clip=clip)
        made.append(to_uint8(ddim(denoiser, chain, x_T.to(device), SeededNoise(0, range(len(y))))).cpu())
    return torch.cat(made)


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


def _interpolations(
    model: DiffusionModel, chain: DiffusionChain, found: Encoded, config: EncodeConfig, *, count: int
) -> Tensor:
    """Rows of `frames` images from one end to the other; a conditional model is told the class of the nearer end."""
    half = len(found.latents) // 2
    ends = (slice(0, count), slice(half, half + count))
    shares = torch.linspace(0, 1, config.frames).tolist()
    latents = rearrange(
        [spherical(found.latents[ends[0]], found.latents[ends[1]], share) for share in shares],
        "frames n c h w -> (n frames) c h w",
    )
    labels = torch.stack([found.labels[ends[share > 0.5]] for share in shares], dim=1).flatten()
    images = decoded(model, chain, latents, labels, clip=config.clip, batch_size=config.batch_size)
    return grid(images, columns=config.frames)


def _grey_levels(images: Tensor, others: Tensor) -> Tensor:
    """Mean absolute difference of uint8 images, (N,) float64."""
    return (images.double() - others.double()).abs().flatten(1).mean(dim=1)


def _psnr(images: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of uint8 images, dB, (N,) float64."""
    mse = ((images.double() - others.double()) ** 2).flatten(1).mean(dim=1)
    return (20 * np.log10(255) - 10 * mse.log10()).clamp(max=LARGEST_PSNR)
