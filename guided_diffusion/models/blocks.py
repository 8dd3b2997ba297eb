"""The parts of the ADM networks: time embedding, residual and attention blocks, resampling."""

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .config import GROUPS, EncoderConfig
from .recomputation import Recomputable

M = TypeVar("M", bound=nn.Module)


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """[cos(t f_i), sin(t f_i)] with f_i = 10000^(-i / floor(width / 2)), a zero last where width is odd.

    t: (B,), any real dtype, on the scale of 0..1000. Returns (B, width), float32, or float64 for a float64 t.
    """
    t = t.to(torch.promote_types(t.dtype, torch.float32))
    half = width // 2
    # The published order of operations: t multiplies a frequency's last bit by up to 1000, which outputs show.
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=t.dtype, device=t.device) / half)
    angles = t[:, None] * frequencies
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, width % 2))


class TimeEmbedding(nn.Module):
    """Sinusoids of t through a two-layer network: (B,) -> (B, 4 * width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(timestep_embedding(t, self.width).to(next(self.mlp.parameters()).dtype))


class Norm(nn.GroupNorm):
    """Group normalisation with 32 groups, computed in float32 at least, returned in its input's dtype."""

    def __init__(self, channels: int) -> None:
        super().__init__(GROUPS, channels)  # pyright: ignore[reportUnknownMemberType]  # its device argument is untyped

    def forward(self, input: Tensor) -> Tensor:
        precise = input.to(torch.promote_types(input.dtype, torch.float32))
        weight, bias = self.weight.to(precise.dtype), self.bias.to(precise.dtype)
        return F.group_norm(precise, self.num_groups, weight, bias, self.eps).to(input.dtype)


def conv3x3(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size, or halves it with stride 2."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)


def silu(h: Tensor) -> Tensor:
    """SiLU of a feature map that nothing else needs: in place, unless gradients will."""
    return F.silu(h, inplace=not torch.is_grad_enabled())


def zeroed(layer: M) -> M:
    """The layer with all parameters 0, so that what it is added to begins unchanged."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class Downsample(Recomputable):
    """Half the size by 2x2 means, or by a convolution of stride 2. It ignores the embedding."""

    def __init__(self, channels: int, *, with_conv: bool) -> None:
        super().__init__()
        self.conv = conv3x3(channels, channels, stride=2) if with_conv else None

    def forward(self, x: Tensor, e: Tensor | None = None) -> Tensor:
        return F.avg_pool2d(x, 2) if self.conv is None else self.conv(x)


class Upsample(Recomputable):
    """Twice the size by nearest neighbours, then optionally a convolution. It ignores the embedding."""

    def __init__(self, channels: int, *, with_conv: bool) -> None:
        super().__init__()
        self.conv = conv3x3(channels, channels) if with_conv else None

    def forward(self, x: Tensor, e: Tensor | None = None) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return x if self.conv is None else self.conv(x)


class ResidualBlock(Recomputable):
    """BigGAN-style residual block with the embedding as AdaGN or as addition (ADM section 3, eq. 4).

    With `resample`, both branches change size: the residual one between its first activation and convolution.
    """

    def __init__(
        self,
        config: EncoderConfig,
        in_channels: int,
        out_channels: int,
        *,
        resample: Downsample | Upsample | None = None,
    ) -> None:
        super().__init__()
        self.modulation = config.modulation
        self.resample = nn.Identity() if resample is None else resample
        self.norm_in = Norm(in_channels)
        self.conv_in = conv3x3(in_channels, out_channels)
        modulation_channels = out_channels * (2 if config.modulation == "scale_shift" else 1)
        self.embedding = nn.Linear(config.embedding_channels, modulation_channels)
        self.norm_out = Norm(out_channels)
        self.dropout = nn.Dropout(config.dropout)
        self.conv_out = zeroed(conv3x3(out_channels, out_channels))
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.conv_in(self.resample(silu(self.norm_in(x))))
        modulation = self.embedding(F.silu(e)).to(h.dtype)[:, :, None, None]
        if self.modulation == "scale_shift":
            scale, shift = modulation.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm_out(h), 1 + scale)
        else:
            h = self.norm_out(h + modulation)
        h = self.conv_out(self.dropout(silu(h)))
        return self.skip(self.resample(x)) + h


class SelfAttention(nn.Module):
    """Multi-head self-attention over the pixels of a feature map, with a residual connection."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = Norm(channels)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        # A pixel's channels side by side, as in channels_last: fused attention needs them so on GPUs, and is slow else.
        qkv = rearrange(self.to_qkv(self.norm(x)), "b c h w -> b (h w) c").contiguous()
        q, k, v = rearrange(qkv, "b l (three n d) -> three b n l d", three=3, n=self.heads)
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj(rearrange(h, "b n (h w) d -> b (n d) h w", h=x.shape[2]))


class AttentionPool(nn.Module):
    """One vector from a feature map by attention from its mean (CLIP's pooling; ADM section 4).

    Tokens are the mean and then the pixels row by row, each with a learned position, so the map's size is fixed.
    """

    def __init__(self, channels: int, *, positions: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.position = nn.Parameter(torch.randn(positions + 1, channels) / channels**0.5)
        self.to_qkv = nn.Linear(channels, 3 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C), H * W being the positions it was built for."""
        pixels = rearrange(x, "b c h w -> b (h w) c")
        tokens = torch.cat([pixels.mean(dim=1, keepdim=True), pixels], dim=1) + self.position.to(x.dtype)
        q, k, v = rearrange(self.to_qkv(tokens), "b l (three n d) -> three b n l d", three=3, n=self.heads)
        # Only the mean's token is read, so only its query is needed.
        return rearrange(F.scaled_dot_product_attention(q[:, :, :1], k, v), "b n 1 d -> b (n d)")
