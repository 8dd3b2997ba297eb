"""The ADM U-Net (2105.05233 section 3), and its encoder half, which noisy classifiers share.

Networks map images and timesteps to raw numbers; `diffusion.denoiser` interprets them.
"""

from typing import cast

import torch
from torch import Tensor, nn

from .blocks import Downsample, Norm, ResidualBlock, SelfAttention, TimeEmbedding, Upsample, conv3x3, silu, zeroed
from .config import EncoderConfig, UNetConfig, sizes_that_work
from .recomputation import Recomputable, Recomputed


class Block(Recomputable):
    """A residual block, with attention after it where the size asks for it."""

    def __init__(self, config: EncoderConfig, in_channels: int, out_channels: int, *, size: int) -> None:
        super().__init__()
        self.residual = ResidualBlock(config, in_channels, out_channels)
        attends = size in config.attention_sizes
        self.attention = SelfAttention(out_channels, config.heads_of(out_channels)) if attends else nn.Identity()

    def forward(self, x: Tensor, e: Tensor, skip: Tensor | None = None) -> Tensor:
        """skip: concatenated with x."""
        return self.attention(self.residual(x if skip is None else torch.cat([x, skip], dim=1), e))


class Level(nn.Module):
    """The blocks at one size, then the change to the next (None after the last)."""

    def __init__(self, blocks: list[Block], resample: Recomputable | None, *, size: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.resample = resample
        self.size = size


class EncoderLevel(Level):
    """A level that halves the size."""

    def forward(self, h: Tensor, e: Tensor) -> list[Tensor]:
        """The output of every block and of the change of size, each of which a decoder concatenates."""
        outputs: list[Tensor] = []
        for block in self.blocks:
            h = cast(Block, block).recomputable(h, e)
            outputs.append(h)
        return outputs if self.resample is None else [*outputs, self.resample.recomputable(h, e)]


class DecoderLevel(Level):
    """A level that doubles the size; each of its blocks has a skip of the encoder."""

    def forward(self, h: Tensor, e: Tensor, skips: list[Tensor]) -> Tensor:
        for block, skip in zip(self.blocks, skips, strict=True):
            h = cast(Block, block).recomputable(h, e, skip)
        return h if self.resample is None else self.resample.recomputable(h, e)


def recompute(network: nn.Module, what: Recomputed) -> None:
    """Have these parts of the network's levels computed again in the backward pass of training rather than kept.

    Raises:
        ValueError: a side that no level of the network has.
    """
    known, sizes = level_sizes(network), () if what == "pointwise" else what
    if unknown := sorted(set(sizes) - set(known)):
        raise ValueError(f"recompute_sizes {unknown} are no feature-map sides of this network; it has {known}")
    for level in _levels(network):
        for part in level.modules():  # one by one, so that little is computed again at a time
            if isinstance(part, Recomputable):
                whole = "everything" if level.size in sizes else "nothing"
                part.recomputed = "pointwise" if what == "pointwise" else whole


def level_sizes(network: nn.Module) -> list[int]:
    """Sides of the network's feature maps, finest first."""
    return sorted({level.size for level in _levels(network)}, reverse=True)


def _levels(network: nn.Module) -> list[Level]:
    return [module for module in network.modules() if isinstance(module, Level)]


class Middle(nn.Module):
    """Residual, attention, residual at the coarsest size."""

    def __init__(self, config: EncoderConfig, channels: int) -> None:
        super().__init__()
        self.residual_in = ResidualBlock(config, channels, channels)
        self.attention = SelfAttention(channels, config.heads_of(channels))
        self.residual_out = ResidualBlock(config, channels, channels)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return self.residual_out(self.attention(self.residual_in(x, e)), e)


class UNetEncoder(nn.Module):
    """The downward half and the middle: (x, e) -> (coarsest feature map, skips)."""

    def __init__(self, config: EncoderConfig, in_channels: int) -> None:
        super().__init__()
        self.config, self.in_channels = config, in_channels
        self.time = TimeEmbedding(config.base_channels)
        channels = config.level_channels[0]
        self.conv_in = conv3x3(in_channels, channels)
        self.skip_channels = [channels]
        self.levels = nn.ModuleList()
        for depth, level_channels in enumerate(config.level_channels):
            size = config.image_size >> depth
            blocks: list[Block] = []
            for _ in range(config.blocks_per_level):
                blocks.append(Block(config, channels, level_channels, size=size))
                channels = level_channels
            is_last = depth == len(config.level_channels) - 1
            down = None if is_last else resampler(config, channels, Downsample)
            self.levels.append(EncoderLevel(blocks, down, size=size))
            self.skip_channels += [channels] * (len(blocks) + (not is_last))
        self.middle = Middle(config, channels)
        self.out_channels = channels

    def forward(self, x: Tensor, e: Tensor) -> tuple[Tensor, list[Tensor]]:
        """x: (B, C, H, W), sides multiples of the down-factor; e: (B, embedding_channels). Skips are finest first.

        Raises:
            ValueError: another channel count, or sides that cannot be halved often enough.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"expected images (batch, {self.in_channels}, height, width), got {tuple(x.shape)}")
        factor = self.config.down_factor
        for name, side in (("height", x.shape[2]), ("width", x.shape[3])):
            if side % factor:
                advice = sizes_that_work(side, factor)
                raise ValueError(f"{name} {side} is not a multiple of this network's down-factor {factor}; {advice}")
        skips = [self.conv_in(x)]
        for level in self.levels:
            skips += level(skips[-1], e)
        return self.middle(skips[-1], e), skips


class UNet(nn.Module):
    """The ADM U-Net: (x_t, t, y) -> raw output (B, out_channels, H, W)."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = UNetEncoder(config, config.in_channels)
        self.label = nn.Embedding(config.num_labels, config.embedding_channels) if config.num_labels else None
        self.levels = nn.ModuleList()
        channels, skip_channels = self.encoder.out_channels, list(self.encoder.skip_channels)
        for depth in reversed(range(len(config.level_channels))):
            blocks: list[Block] = []
            for _ in range(config.blocks_per_level + 1):
                in_channels = channels + skip_channels.pop()
                channels = config.level_channels[depth]
                blocks.append(Block(config, in_channels, channels, size=config.image_size >> depth))
            up = resampler(config, channels, Upsample) if depth else None
            self.levels.append(DecoderLevel(blocks, up, size=config.image_size >> depth))
        self.norm_out = Norm(channels)
        self.conv_out = zeroed(conv3x3(channels, config.out_channels))

    def forward(
        self, x: Tensor, t: Tensor, y: Tensor | None = None, *, extra_embedding: Tensor | None = None
    ) -> Tensor:
        """x: (B, in_channels, H, W); t: (B,) on the trained scale; y: (B,) int64 labels where the network has classes.

        extra_embedding: (B, embedding_channels) added to the embedding of timestep and class.

        Raises:
            ValueError: labels missing or unasked for; images of a size or channel count the network cannot take.
        """
        e = self.embedding(t, y) if extra_embedding is None else self.embedding(t, y) + extra_embedding
        h, skips = self.encoder(x, e)
        for level in self.levels:
            h = level(h, e, [skips.pop() for _ in range(self.config.blocks_per_level + 1)])
        return self.conv_out(silu(self.norm_out(h)))

    def embedding(self, t: Tensor, y: Tensor | None) -> Tensor:
        """The vector (B, embedding_channels) that tells every block the timestep and the class."""
        e = self.encoder.time(t)
        if self.label is None:
            if y is not None:
                raise ValueError("labels were given to an unconditional network; leave them out")
            return e
        if y is None:
            raise ValueError(f"this network is conditional on {self.config.num_classes} classes; give it labels y")
        return e + self.label(y)


def resampler(config: EncoderConfig, channels: int, kind: type[Downsample] | type[Upsample]) -> Recomputable:
    """The change of size that the config asks for."""
    if config.resample == "block":
        return ResidualBlock(config, channels, channels, resample=kind(channels, with_conv=False))
    return kind(channels, with_conv=config.resample == "conv")
