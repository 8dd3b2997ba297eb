"""The upsampling network: a U-Net conditioned on a low-resolution image (ADM section 5.2)."""

from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import TimeEmbedding, zeroed
from .unet import UNet, UNetConfig


@dataclass(frozen=True, kw_only=True)
class UpsamplerConfig(UNetConfig):
    """A whole upsampler: `image_size` is the side that it produces, `in_channels` counts the image's channels alone."""

    low_res_size: int
    """Side of the square low-resolution images, pixels."""
    conditioning_noise: float | None = None
    """Largest noise rate, in (0, 1], of low-resolution images in training; the network is conditioned on it
    (2106.15282 section 4.3). null: they are clean."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_low_res(self.low_res_size, self.conditioning_noise, image_size=self.image_size)


def check_low_res(low_res_size: int, conditioning_noise: float | None, *, image_size: int) -> None:
    """Refuse low-resolution images that an upsampler cannot be for.

    Raises:
        ValueError: a side outside 1 .. image_size - 1, or a noise rate outside (0, 1].
    """
    if not 0 < low_res_size < image_size:
        raise ValueError(
            f"low_res_size is {low_res_size}; an upsampler to {image_size} pixels starts from fewer: give a side "
            f"between 1 and {image_size - 1}"
        )
    if conditioning_noise is not None and not 0 < conditioning_noise <= 1:
        raise ValueError(
            f"conditioning_noise is a noise rate above 0 and at most 1, or null for none; got {conditioning_noise}"
        )


class Upsampler(nn.Module):
    """A U-Net conditioned on a low-resolution image: (x_t, t, y, low_res) -> raw output (B, out_channels, H, W).

    With `config.conditioning_noise` it is conditioned on that image's noise rate as well, through an embedding like the
    timestep's, which begins at zero.
    """

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__()
        self.config = config
        own: dict[str, Any] = {field.name: getattr(config, field.name) for field in fields(UNetConfig)}
        own["in_channels"] = 2 * config.in_channels
        self.unet = UNet(UNetConfig(**own))
        self.noise_rate = None if config.conditioning_noise is None else TimeEmbedding(config.base_channels)
        if self.noise_rate is not None:
            zeroed(self.noise_rate.mlp[-1])

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor | None = None,
        *,
        low_res: Tensor,
        conditioning_noise: Tensor | None = None,
    ) -> Tensor:
        """x: (B, C, H, W); t: (B,); y: (B,) int64 where the network has classes; low_res: (B, C, h, w) in [-1, 1].

        conditioning_noise: (B,) the noise rate of low_res, sqrt(1 - alpha_bar); None: it is clean.

        low_res is stretched to x's size bilinearly, without antialiasing and with half-pixel centres, as published,
        whatever its size; images of another size than `low_res_size` are outside what the network was trained on.

        Raises:
            ValueError: a low_res of another batch or channel count than x, a noise rate for a network without
                `conditioning_noise`, or what `UNet` refuses.
        """
        if low_res.ndim != 4 or low_res.shape[:2] != x.shape[:2]:
            raise ValueError(
                f"low_res must be (batch, channels, height, width) with the batch and channels of x, "
                f"{tuple(x.shape[:2])}; got {tuple(low_res.shape)}"
            )
        if self.noise_rate is None and conditioning_noise is not None:
            raise ValueError("this upsampler is for clean low-resolution images; leave conditioning_noise out")
        stretched = F.interpolate(low_res, size=x.shape[2:], mode="bilinear", align_corners=False)
        embedding = None
        if self.noise_rate is not None:  # 1000 times the rate lies on the scale that time embeddings are made for
            embedding = self.noise_rate(
                torch.zeros_like(t) if conditioning_noise is None else 1000 * conditioning_noise
            )
        return self.unet(torch.cat([x, stretched.to(x.dtype)], dim=1), t, y, extra_embedding=embedding)
