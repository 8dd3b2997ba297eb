"""A classifier of noisy images, built of diffusers' blocks. diffusers loads this file beside its weights."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor, nn


class NoisyClassifier(ModelMixin, ConfigMixin):
    """p(y | x_t, t): the downward half of a UNet2DModel, pooled (2105.05233 section 4)."""

    @register_to_config
    def __init__(self, encoder: dict[str, Any], num_classes: int, pooling: str = "attention") -> None:
        """encoder: config of the UNet2DModel. pooling: "attention" from the mean, or "adaptive", the mean itself."""
        super().__init__()
        unet = UNet2DModel(**encoder)
        self.conv_in, self.time_proj, self.time_embedding = unet.conv_in, unet.time_proj, unet.time_embedding
        self.down_blocks, self.mid_block = unet.down_blocks, cast(Any, unet.mid_block)
        channels, levels = encoder["block_out_channels"][-1], len(encoder["block_out_channels"])
        self.conv_norm_out = nn.GroupNorm(encoder["norm_num_groups"], channels)
        self.pool: Any = None
        if pooling == "attention":
            positions = (encoder["sample_size"] >> levels - 1) ** 2 + 1
            self.pool = nn.Module()
            self.pool.position = nn.Parameter(torch.zeros(positions, channels))
            self.pool.to_qkv = nn.Linear(channels, 3 * channels)
        self.heads = channels // (encoder["attention_head_dim"] or channels)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """Logits (B, num_classes) of noisy images (B, C, H, W) at timesteps (B,)."""
        embedding = self.time_embedding(self.time_proj(timestep).to(sample.dtype))
        h = self.conv_in(sample)
        for block in self.down_blocks:
            h, _ = block(h, embedding)
        h = F.silu(self.conv_norm_out(self.mid_block(h, embedding))).flatten(2)
        return self.head(h.mean(dim=2) if self.pool is None else self._pooled(h.transpose(1, 2)))

    def _pooled(self, pixels: Tensor) -> Tensor:
        tokens = torch.cat([pixels.mean(dim=1, keepdim=True), pixels], dim=1) + self.pool.position
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.pool.to_qkv(tokens).chunk(3, dim=2)
        )
        return F.scaled_dot_product_attention(q[:, :, :1], k, v).flatten(1)
