"""Encode images and decode them again: python scripts/encode.py --diffusion RUN --data.path DIR --out DIR"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import run_command
from ..data.image_set import DataConfig
from ..samplers import SamplerConfig

if TYPE_CHECKING:
    from torch import Tensor

    from ..generation.encoding import Codec


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """Encode images as DDIM latents, decode them, and interpolate between them."""

    diffusion: Path
    """Run directory or checkpoint of the diffusion model."""
    data: DataConfig
    """Images; centre crops, not mirrored. Without classes: one folder of all, or --data.labels filenames."""
    out: Path
    """Directory for latents.npz, encoding.json, reconstructions.png and interpolations.png; rewritten."""
    max_images: int = 64
    """If there are more, this many are taken, evenly spaced."""
    steps: int | str = 250
    """Timesteps of DDIM, as --sampler.steps of scripts/sample.py; more bring images back more closely."""
    interpolations: int = 8
    """Pairs of images to interpolate between: image i and the one half of the images further on. 0: none."""
    frames: int = 9
    """Images from one end of an interpolation to the other, both ends included."""
    clip: float | None = 1.0
    """Bound of estimates of x_0, clamped to [-clip, clip]; null: none, and images come back less well."""
    weights: str | None = None
    """Weights of the checkpoint, such as ema_0.9999 or network; null: its slowest average."""
    batch_size: int = 64
    """Images at a time."""

    def __post_init__(self) -> None:
        for name, least in (("max_images", 1), ("batch_size", 1), ("interpolations", 0), ("frames", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        _sampler(self)


def encode(config: EncodeConfig) -> None:
    """Write latents, their record and the pictures, and print how closely the images come back.

    Raises:
        FileNotFoundError, ValueError: as `load_diffusion` and `read_inputs`; timesteps that the chain lacks.
    """
    from torch import stack
