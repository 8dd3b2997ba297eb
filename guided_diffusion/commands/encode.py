"""Encode images and decode them again: python scripts/encode.py --diffusion RUN --data.path DIR --out DIR"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange

from ..config import check_at_least, run_command
from ..data.config import refuse_among
from ..data.pictures import write_grid
from ..diffusion.model import load_diffusion, weights_record
from ..distributed import default_device
from ..files import atomic_write, locked, write_json
from ..generation.encoding import Codec, mean_grey_levels, psnr
from ..generation.input_images import InputConfig, InputImages, open_inputs
from ..samplers import SamplerConfig


@dataclass(frozen=True, kw_only=True)
class EncodeConfig(InputConfig):
    """Encode images as DDIM latents, decode them, and interpolate between them."""

    out: Path
    """Directory for latents.npz, encoding.json, reconstructions.png and interpolations.png; rewritten."""
    max_images: int = 64
    """Largest number of images; of more, evenly spaced ones are taken."""
    steps: int | str = 250
    """Timesteps of DDIM, as --sampler.steps of scripts/sample.py; with more, images come back more closely."""
    interpolations: int = 8
    """Pairs of images to interpolate between: image i and the one half of the images further on. 0: none."""
    frames: int = 9
    """Images from one end of an interpolation to the other, both ends included."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, interpolations=0, frames=2)


def encode(config: EncodeConfig) -> None:
    """Write latents, their record and the pictures, and print how closely the images come back."""
    refuse_among(config.data.path, config.out)
    model = load_diffusion(config.diffusion, weights=config.weights, device=default_device())
    sampler = SamplerConfig(steps=config.steps, clip=config.clip)
    codec = Codec(model=model, sampler=sampler, batch_size=config.batch_size)
    inputs = open_inputs(config.data, model, most=config.max_images, class_names=model.config.class_names or None)
    with locked(config.out, work="encoding"):
        record = _write(config, codec, inputs)
    print(
        f"{len(record['images'])} images by {len(codec.chain)} links and back: off by "
        f"{record['mean_grey_levels']:.3g} grey levels on average, PSNR {record['mean_psnr']:.4g} dB, the worst "
        f"{record['worst_psnr']:.4g} dB; written to {config.out}"
    )


def _write(config: EncodeConfig, codec: Codec, inputs: InputImages) -> Mapping[str, Any]:
    """Encode and decode, write all files, and return the record."""
    images, labels = inputs.read()
    latents = codec.encode(images, labels)
    decoded = codec.decode(latents, labels)
    with atomic_write(config.out / "latents.npz") as file:
        np.savez(file, latents=latents.numpy(), labels=labels.numpy(), images=images.numpy())
    ratios, levels = psnr(images, decoded), mean_grey_levels(images, decoded)
    rows = zip(inputs.files, labels.tolist(), ratios.tolist(), levels.tolist(), strict=True)
    record: dict[str, Any] = {
        "diffusion": weights_record(codec.model),
        "settings": {"steps": config.steps, "links": len(codec.chain), "clip": config.clip},
        "mean_psnr": float(ratios.mean()),
        "worst_psnr": float(ratios.min()),
        "mean_grey_levels": float(levels.mean()),
        "images": [dict(zip(("file", "label", "psnr", "grey_levels"), row, strict=True)) for row in rows],
    }
    write_json(config.out / "encoding.json", record)
    pairs = rearrange([images, decoded], "two n c h w -> (n two) c h w")
    write_grid(config.out / "reconstructions.png", pairs[:128], columns=8, heads=["image", "decoded"] * 4)
    if count := min(config.interpolations, len(images) // 2):
        between = codec.interpolations(latents, labels, count=count, frames=config.frames)
        write_grid(config.out / "interpolations.png", between, columns=config.frames)
    return record


main = partial(run_command, EncodeConfig, encode)
