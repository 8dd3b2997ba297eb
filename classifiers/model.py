"""The noisy-image classifier: the encoder half of the U-Net, pooled (ADM section 4)."""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from einops import reduce
from torch import Tensor, nn

from guided_diffusion.models.blocks import AttentionPool, Norm, silu
from guided_diffusion.models.unet import EncoderConfig, UNetEncoder

Pooling = Literal["attention", "adaptive"]
"""One vector from the last feature map: by attention from its mean (ADM), or the mean itself."""


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(EncoderConfig):
    """A whole classifier."""

    num_classes: int
    """Classes it tells apart."""
    in_channels: int = 3
    """Channels of the images."""
    pooling: Pooling = "attention"
    """`attention` fixes the image size; `adaptive` takes any."""


class NoisyClassifier(nn.Module):
    """p(y | x_t, t): (x_t, t) -> logits (B, num_classes)."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = UNetEncoder(config, config.in_channels)
        channels = self.encoder.out_channels
        self.norm_out = Norm(channels)
        side = config.image_size // config.down_factor
        heads = config.heads_of(channels)
        attends = config.pooling == "attention"
        self.pool = AttentionPool(channels, positions=side**2, heads=heads) if attends else None
        self.head = nn.Linear(channels, config.num_classes)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Logits (B, num_classes) of images x_t (B, C, H, W) at timesteps t (B,), on the scale trained with.

        Raises:
            ValueError: images of a size or channel count the network cannot take.
        """
        return self.head(self.pooled(self.feature_map(x_t, t)))

    def log_prob(self, x_t: Tensor, t: Tensor) -> Tensor:
        """log p(y | x_t, t) of every class, (B, num_classes), nats, in float32 at least."""
        return log_probabilities(self(x_t, t))

    def feature_map(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The last feature map (B, channels, H / down-factor, W / down-factor), normalised and activated."""
        side = self.config.image_size
        if self.pool is not None and x_t.shape[2:] != (side, side):
            raise ValueError(
                f"attention pooling learned the places of a {side}x{side} image, got {x_t.shape[2]}x{x_t.shape[3]}, "
                f"whose pixels lie elsewhere; resize the images to {side}x{side}, or train a classifier with pooling "
                f'"adaptive"'
            )
        h, _ = self.encoder(x_t, self.encoder.time(t))
        return silu(self.norm_out(h))

    def pooled(self, feature_map: Tensor) -> Tensor:
        """The vector (B, channels) that the logits are a linear function of."""
        return reduce(feature_map, "b c h w -> b c", "mean") if self.pool is None else self.pool(feature_map)


def log_probabilities(logits: Tensor) -> Tensor:
    """Log-probabilities (B, num_classes), nats, of logits, in float32 at least."""
    return F.log_softmax(logits if logits.element_size() > 4 else logits.float(), dim=1)
