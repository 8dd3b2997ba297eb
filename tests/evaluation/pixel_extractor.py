"""A feature extractor simple enough to know its answers: the class of an image is its brightness."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from guided_diffusion.data.formats.samples import Shard, open_manifest, write_shard
from guided_diffusion.evaluation.extractors.features import Features
from guided_diffusion.evaluation.extractors.weights import PublishedWeights

BRIGHTNESS = (40, 120, 200)
CLASS_NAMES = ("dark", "grey", "light")
LABELS = torch.arange(3).repeat_interleave(40)


@dataclass(frozen=True)
class PixelExtractor:
    """pooled: 5 fixed projections of the pixels.

    spatial: the top row. probabilities: softmax of closeness to BRIGHTNESS.
    """

    name: str = "classifier:runs/judge"
    sha256: str = "0" * 64
    published: PublishedWeights | None = None
    resize: str = "none"
    class_names: tuple[str, ...] | None = CLASS_NAMES

    def __call__(self, images_uint8: Tensor) -> Features:
        pixels = images_uint8.float() / 255
        flat = pixels.flatten(1)
        projection = torch.randn(flat.shape[1], 5, generator=torch.Generator().manual_seed(0))
        distance = (images_uint8.double().mean(dim=(1, 2, 3))[:, None] - torch.tensor(BRIGHTNESS)).abs()
        return Features(flat @ projection, pixels[:, 0, 0], (-distance / 10).softmax(dim=1))


def noisy_images(labels: Tensor, *, seed: int, size: int = 6, channels: int = 3, spread: int = 30) -> Tensor:
    """uint8 (N, size, size, channels) around the brightness of each label."""
    noise = torch.randint(
        -spread, spread + 1, (len(labels), size, size, channels), generator=torch.Generator().manual_seed(seed)
    )
    return (torch.tensor(BRIGHTNESS)[labels][:, None, None, None] + noise).to(torch.uint8)


def save_samples(directory: Path, images: Tensor, labels: Tensor, **manifest: object) -> Path:
    open_manifest(
        directory, {"num_samples": len(images), "shard_size": 50, "class_names": CLASS_NAMES, "seed": 7} | manifest
    )
    for n, start in enumerate(range(0, len(images), 50)):
        ids = np.arange(start, min(start + 50, len(images)))
        write_shard(directory, n, Shard(images=images[ids].numpy(), labels=labels[ids].numpy(), ids=ids))
    return directory


def save_class_folders(directory: Path, images: Tensor, labels: Tensor) -> Path:
    for n, (image, label) in enumerate(zip(images.numpy(), labels.tolist(), strict=True)):
        (directory / CLASS_NAMES[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze()).save(directory / CLASS_NAMES[label] / f"{n:03d}.png")
    return directory
