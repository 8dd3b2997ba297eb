"""Small U-Nets of two levels, with random weights, and images for them."""

from typing import Any

import tiny
import torch
from torch import Tensor

from guided_diffusion.diffusion.model import DiffusionConfig
from guided_diffusion.models.unet import UNet, UNetConfig

T = torch.tensor([3.0, 40.0])


def model(channels: int = 3, *, variance: Any = "learned_range", size: int = 8, **network: Any) -> DiffusionConfig:
    out = channels * (2 if variance == "learned_range" else 1)
    config = UNetConfig(
        **vars(tiny.encoder(image_size=size, channel_mult=(1.0, 1.0), attention_sizes=(size,))),
        in_channels=channels, out_channels=out, **network,
    )  # fmt: skip
    count = config.num_classes or 0
    return DiffusionConfig(
        network=config, chain=tiny.CHAIN, variance=variance, class_names=tuple("abcdefgh"[:count]),
    )  # fmt: skip


def network(config: DiffusionConfig) -> UNet:
    torch.manual_seed(0)
    return tiny.awakened(UNet(config.network)).eval()  # type: ignore[return-value]


def images(channels: int, *, size: int = 8) -> Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def outputs(net: torch.nn.Module, x: Tensor, y: list[int] | None = None) -> Tensor:
    return net(x, T, None if y is None else torch.tensor(y))
