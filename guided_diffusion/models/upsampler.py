"""The upsampling network: a U-Net that sees a low-resolution image beside the noisy one (ADM section 5.2)."""

from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .unet import UNet, UNetConfig


@dataclass(frozen=True, kw_only=True)
class UpsamplerConfig(UNetConfig):
    """A whole upsampler: `image_size` is the side that it produces, `in_channels` counts the image's channels alone."""

    low_res_size: int
    """Side of the square low-resolution images, pixels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_low_res_size(self.low_res_size, self.image_size)


def check_low_res_size(low_res_size: int, image_size: int) -> None:
    """Refuse what would not be an enlargement.

    Raises:
        ValueError: a low_res_size outside 1 .. image_size - 1.
    """
    if not 0 < low_res_size < image_size:
        raise ValueError(
            f"low_res_size is {low_res_size}; an upsampler to {image_size} pixels starts from fewer: give a side "
            f"between 1 and {image_size - 1}"
        )


class Upsampler(nn.Module):
    """A U-Net told of a low-resolution image: (x_t, t, y, low_res) -> raw output (B, out_channels, H, W)."""

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__()
        self.config = config
        own: dict[str, Any] = {field.name: getattr(config, field.name) for field in fields(UNetConfig)}
        own["in_channels"] = 2 * config.in_channels
        self.unet = UNet(UNetConfig(**own))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, *, low_res: Tensor) -> Tensor:
        """x: (B, C, H, W); t: (B,); y: (B,) int64 where the network has classes; low_res: (B, C, h, w) in [-1, 1].

        low_res is stretched to x's size bilinearly, without antialiasing and with half-pixel centres, as published,
        whatever its size; images of another size than `low_res_size` are outside what the network was trained on.

        Raises:
            ValueError: a low_res of another batch or channel count than x, or what `UNet` refuses.
        """
        if low_res.ndim != 4 or low_res.shape[:2] != x.shape[:2]:
            raise ValueError(
                f"low_res must be (batch, channels, height, width) with the batch and channels of x, "
                f"{tuple(x.shape[:2])}; got {tuple(low_res.shape)}"
            )
        stretched = F.interpolate(low_res, size=x.shape[2:], mode="bilinear", align_corners=False)
        return self.unet(torch.cat([x, stretched.to(x.dtype)], dim=1), t, y)
