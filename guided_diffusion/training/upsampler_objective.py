"""Training an upsampler (ADM section 5.2): the diffusion objective of a network that sees each image's reduction."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..data.batches import Batch
from ..data.image_set import ImageSet
from ..diffusion.chain import broadcast_like, diffused
from ..diffusion.model import UpsamplerModelConfig
from ..diffusion.noise import SeededNoise
from ..models.upsampler import Upsampler, UpsamplerConfig, check_low_res_size, check_noise_rate
from .diffusion_objective import (
    DiffusionObjective,
    TrainDiffusionConfig,
    diffusion_config,
    diffusion_objective,
    train_as,
    training_folder,
    with_memory,
)
from .objective import Losses
from .previews import PreviewConfig, upsampler_previews
from .resume import Identity, check_run_directory


@dataclass(frozen=True, kw_only=True)
class TrainUpsamplerConfig(TrainDiffusionConfig):
    """Train an upsampler on a folder of images in the size that it is to make."""

    low_res_size: int
    """Side of the images that it will enlarge, pixels; training reduces the data to it."""
    conditioning_noise: float | None = None
    """Noise the reduced images, each at a rate between 0 and this one, at most 1, which the network is told: it then
    mends more of what a base model gets wrong (2106.15282 section 4.3); null: they stay clean, as published."""
    preview: PreviewConfig = PreviewConfig(images=16)
    """Enlargements made as training goes, every training.observe_every_iterations; a classifier does not guide them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_low_res_size(self.low_res_size, self.network.image_size)
        check_noise_rate(self.conditioning_noise)
        if self.preview.classifier is not None:
            raise ValueError("the previews of an upsampler are not guided: leave preview.classifier out")


@dataclass(frozen=True)
class UpsamplerObjective:
    """The diffusion objective, of a network that sees x_0 in low resolution."""

    diffusion: DiffusionObjective
    low_res_size: int
    conditioning_noise: float | None = None
    """Largest noise rate of the low-resolution images; None: they are clean."""

    def __call__(self, network: Callable[..., Tensor], batch: Batch, noise: SeededNoise) -> Losses:
        """As of `DiffusionObjective`."""
        low_res = area_reduced(batch.x0, self.low_res_size)
        told = partial(network, low_res=low_res)
        if self.conditioning_noise is not None:
            rate = broadcast_like(self.conditioning_noise * noise.uniform(), low_res)
            noised = diffused(low_res, noise(low_res), alpha_bar=1 - rate.reshape(-1, 1, 1, 1) ** 2)
            told = partial(network, low_res=noised, conditioning_noise=rate.to(low_res.dtype))
        return self.diffusion(told, batch, noise)


def area_reduced(x0: Tensor, size: int) -> Tensor:
    """Means over areas, (B, C, size, size) of (B, C, H, W), as published: neither quantised nor blurred nor noised."""
    return F.interpolate(x0, size=(size, size), mode="area")


def train_upsampler(config: TrainUpsamplerConfig) -> None:
    """Train as configured; see `fit` for how it ends.

    Raises:
        ValueError, FileNotFoundError: as the data, the network and `fit` raise them, before anything is written.
    """
    check_run_directory(config.out, resume=config.resume == "auto")
    folder = training_folder(config)
    model = upsampler_config(config, folder)
    diffusion = diffusion_objective(config, model)
    objective = UpsamplerObjective(diffusion, config.low_res_size, config.conditioning_noise)
    train_as(
        config,
        folder,
        Identity("upsampler", model, config),
        make_network=partial(Upsampler, model.network),
        objective=with_memory(objective, diffusion.timesteps),
        observe=upsampler_previews(
            config.preview,
            model,
            folder,
            reduced=partial(area_reduced, size=config.low_res_size),
            decay=max(config.training.ema_decays, default=None),
            out=config.out / "previews",
        ),
    )


def upsampler_config(config: TrainUpsamplerConfig, folder: ImageSet) -> UpsamplerModelConfig:
    """The model that a training config and its data describe."""
    model = diffusion_config(config, folder)
    network = UpsamplerConfig(
        **vars(model.network), low_res_size=config.low_res_size, conditioning_noise=config.conditioning_noise
    )
    own: dict[str, Any] = {**vars(model), "network": network}
    return UpsamplerModelConfig(**own)
