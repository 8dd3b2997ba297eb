"""Training an upsampler (ADM section 5.2): the diffusion objective of a network that sees each image's reduction."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import to_plain
from ..data.batches import Batch
from ..data.folder import ClassFolder
from ..data.pictures import write_png
from ..images import grid, to_uint8
from ..model import UpsamplerModelConfig
from ..models.upsampler import Upsampler, UpsamplerConfig, check_low_res_size
from ..noise import SeededNoise
from ..schedules import make_chain
from .diffusion import (
    DiffusionObjective,
    TrainDiffusionConfig,
    diffusion_config,
    preview_samples,
    train_as,
    training_folder,
)
from .loop import Identity, Losses


@dataclass(frozen=True, kw_only=True)
class TrainUpsamplerConfig(TrainDiffusionConfig):
    """Train an upsampler on a folder of images in the size that it is to make."""

    low_res_size: int
    """Side of the images that it will enlarge, pixels; training reduces the data to it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_low_res_size(self.low_res_size, self.network.image_size)


@dataclass(frozen=True)
class UpsamplerObjective:
    """The diffusion objective, of a network that sees x_0 in low resolution."""

    diffusion: DiffusionObjective
    low_res_size: int

    def __call__(self, network: Callable[..., Tensor], batch: Batch, noise: SeededNoise) -> Losses:
        """As of `DiffusionObjective`."""
        low_res = area_reduced(batch.x0, self.low_res_size)
        return self.diffusion(partial(network, low_res=low_res), batch, noise)


def area_reduced(x0: Tensor, size: int) -> Tensor:
    """Means over areas, (B, C, size, size) of (B, C, H, W), as published: neither quantised nor blurred nor noised."""
    return F.interpolate(x0, size=(size, size), mode="area")


def train_upsampler(config: TrainUpsamplerConfig) -> None:
    """Train as configured; see `fit` for how it ends.

    Raises:
        ValueError, FileNotFoundError: as the data, the network and `fit` raise them, before anything is written.
    """
    folder = training_folder(config)
    model = upsampler_config(config, folder)
    train_as(
        config,
        folder,
        Identity("upsampler", to_plain(model), to_plain(config)),
        make_network=partial(Upsampler, model.network),
        objective=UpsamplerObjective(
            DiffusionObjective(make_chain(config.chain), model, config.loss), config.low_res_size
        ),
        observe=partial(_preview, model=model, folder=folder, directory=config.out / "previews"),
    )


def upsampler_config(config: TrainUpsamplerConfig, folder: ClassFolder) -> UpsamplerModelConfig:
    """The model that a training config and its data describe."""
    model = diffusion_config(config, folder)
    network = UpsamplerConfig(**vars(model.network), low_res_size=config.low_res_size)
    own: dict[str, Any] = {**vars(model), "network": network}
    return UpsamplerModelConfig(**own)


def _preview(
    network: nn.Module,
    iteration: int,
    *,
    model: UpsamplerModelConfig,
    folder: ClassFolder,
    directory: Path,
    count: int = 16,
) -> Mapping[str, float]:
    """Write a grid of pairs: a training image in low resolution, and what the network makes of it."""
    device = next(network.parameters()).device
    x0, y = _spread_over(folder, count)
    low_res = area_reduced(x0.to(device), model.network.low_res_size)
    enlarged = preview_samples(partial(network, low_res=low_res), model, y.to(device))
    shown = F.interpolate(low_res, size=enlarged.shape[2:], mode="nearest-exact")
    pairs = rearrange([to_uint8(shown), enlarged], "two b c h w -> (b two) c h w")
    write_png(directory / f"{iteration:07d}.png", grid(pairs, columns=8))
    return {}


def _spread_over(folder: ClassFolder, count: int) -> tuple[Tensor, Tensor]:
    """x0 (B, C, H, W) and labels (B,) of at most `count` images, evenly over the folder and so over its classes."""
    indices = range(0, len(folder), -(-len(folder) // count))
    x0, y = zip(*(folder[index] for index in indices), strict=True)
    return torch.stack(x0), torch.tensor(y)
