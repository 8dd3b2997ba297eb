"""Configs of the networks, which check that their layers can be built."""

from dataclasses import dataclass
from typing import Literal

GROUPS = 32
"""Groups of every group normalisation; channel counts are multiples of it."""

MOST_PIXELS = 1 << 16
"""The longest side of an image, so that a damaged or mistyped one asks for no terabytes."""
MOST_PARAMETERS = 10**12
"""The same for a network."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Architecture of a network, without the channels and classes that follow from the data."""

    image_size: int
    """Nominal side of the square images, pixels; `attention_sizes` are relative to it."""
    base_channels: int
    """Channels that `channel_mult` multiplies, and a quarter of the embedding's width."""
    channel_mult: tuple[float, ...]
    """Channels of each level over base_channels, finest level first; each level halves the size of the one before."""
    attention_sizes: tuple[int, ...]
    """Feature-map sides, pixels, at which attention follows each residual block; (32, 16, 8) in ADM."""
    blocks_per_level: int = 2
    """Residual blocks of each level of the encoder; a decoder has one more."""
    head_channels: int | None = 64
    """Channels of each attention head (ADM: 64); null where `heads` is given."""
    heads: int | None = None
    """Attention heads at every size; null where `head_channels` is given."""
    dropout: float = 0.0
    """Probability in the residual blocks, 0..1."""
    resample: Literal["block", "conv", "plain"] = "block"
    """Changes of size by BigGAN residual blocks (ADM), by a convolution (DDPM), or without parameters."""
    modulation: Literal["scale_shift", "add"] = "scale_shift"
    """Timestep and class enter by scale and shift after the norm (AdaGN) or by addition before it (DDPM)."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"network.dropout is a probability below 1, got {self.dropout}")
        if not self.channel_mult or self.blocks_per_level < 1:
            raise ValueError("a network needs at least one level (channel_mult) and one block a level")
        if self.image_size > MOST_PIXELS:
            raise ValueError(f"image_size is {self.image_size}, and the largest is {MOST_PIXELS}")
        if self.image_size % self.down_factor:
            times, advice = len(self.channel_mult) - 1, sizes_that_work(self.image_size, self.down_factor)
            raise ValueError(f"image_size {self.image_size} cannot be halved {times} times; {advice}")
        sizes = tuple(self.image_size >> level for level in range(len(self.channel_mult)))
        unknown = sorted(set(self.attention_sizes) - set(sizes))
        if unknown:
            raise ValueError(f"attention_sizes {unknown} are no feature-map sides of this network; it has {sizes}")
        self._check_channels()

    def _check_channels(self) -> None:
        if (self.head_channels is None) == (self.heads is None):
            raise ValueError(
                f"give exactly one of head_channels and heads, and null for the other; got head_channels "
                f"{self.head_channels} and heads {self.heads}"
            )
        if (self.head_channels or self.heads or 0) < 1:
            raise ValueError(f"head_channels {self.head_channels} and heads {self.heads}: the one given is at least 1")
        for level, channels in enumerate(self.level_channels):
            if channels < GROUPS or channels % GROUPS:
                raise ValueError(
                    f"level {level} has {channels} channels (base_channels {self.base_channels} times "
                    f"{self.channel_mult[level]}); group normalisation needs a multiple of {GROUPS}"
                )
        if self.least_parameters > MOST_PARAMETERS:
            sizes = f"base_channels {self.base_channels} and blocks_per_level {self.blocks_per_level}"
            raise ValueError(f"{sizes} make {self.least_parameters:.3g} parameters or more; the most are 1e12")
        attended = [c for i, c in enumerate(self.level_channels) if self.image_size >> i in self.attention_sizes]
        for channels in {*attended, self.level_channels[-1]}:
            if channels % (self.head_channels or self.heads or 1):
                asked = f"heads of {self.head_channels} channels" if self.head_channels else f"{self.heads} heads"
                raise ValueError(f"{channels} channels cannot be split into {asked}; change head_channels or heads")

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(int(mult * self.base_channels) for mult in self.channel_mult)

    @property
    def least_parameters(self) -> int:
        """A lower bound of the network's parameters, from its sizes alone: two 3x3 convolutions in each block."""
        return 18 * self.blocks_per_level * sum(channels**2 for channels in self.level_channels)

    @property
    def embedding_channels(self) -> int:
        """Width of the embedding of timestep and class."""
        return 4 * self.base_channels

    @property
    def down_factor(self) -> int:
        """Image side over the coarsest feature map's side."""
        return 2 ** (len(self.channel_mult) - 1)

    def heads_of(self, channels: int) -> int:
        """Attention heads of a feature map with that many channels."""
        return self.heads if self.head_channels is None else channels // self.head_channels  # type: ignore[return-value]  # one of the two is given


@dataclass(frozen=True, kw_only=True)
class UNetConfig(EncoderConfig):
    """A whole U-Net."""

    in_channels: int = 3
    """Channels of the images."""
    out_channels: int = 6
    """Channels of the raw output: those of the images, twice where the variance is learned."""
    num_classes: int | None = None
    """Classes that the network is conditioned on; null: unconditional."""
    null_class: bool = False
    """The label `num_classes` means no class, for classifier-free guidance (2207.12598)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.null_class and self.num_classes is None:
            raise ValueError("null_class needs classes, but num_classes is null: give num_classes or leave it out")

    @property
    def num_labels(self) -> int:
        """Labels of the network, the null class included."""
        return (self.num_classes or 0) + self.null_class


def sizes_that_work(side: int, factor: int) -> str:
    """The nearest multiples of `factor` to a side that is none, in words."""
    below, above = side // factor * factor, -(-side // factor) * factor
    return f"the next sizes that work are {below} and {above}" if below else f"the smallest size that works is {above}"
