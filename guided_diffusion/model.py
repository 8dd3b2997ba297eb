"""A diffusion model as a whole: a network, the chain it was trained on, what it predicts, and its classes' names."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from .checkpoint import Checkpoint, load_weights, open_checkpoint
from .config import from_plain
from .models.unet import UNet, UNetConfig
from .prediction import NetworkDenoiser, Prediction, Variance, has_learned_variance
from .schedules import ChainConfig


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """What a diffusion model is, apart from its weights: the "model" of its checkpoint's config.json."""

    network: UNetConfig
    """The U-Net."""
    chain: ChainConfig
    """The chain that it was trained on."""
    prediction: Prediction = "eps"
    """What its first C output channels estimate."""
    variance: Variance = "learned_range"
    """Where the variance of a step comes from."""
    class_names: tuple[str, ...] = ()
    """Names of the classes in the data it was trained on, in label order, also where it is not told the class."""

    def __post_init__(self) -> None:
        wanted = self.network.in_channels * (1 + has_learned_variance(self.variance))
        if self.network.out_channels != wanted:
            raise ValueError(
                f"network.out_channels is {self.network.out_channels}; images of {self.network.in_channels} channels "
                f'with variance "{self.variance}" need {wanted}'
            )


@dataclass(frozen=True)
class DiffusionModel:
    """A diffusion model ready for use: in evaluation mode, its parameters frozen."""

    config: DiffusionConfig
    network: UNet
    checkpoint: Checkpoint
    weights: str
    """Which of the checkpoint's weights these are: "network", "ema_0.9999", .."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images it was trained on."""
        network = self.config.network
        return network.in_channels, network.image_size, network.image_size

    @property
    def is_conditional(self) -> bool:
        """Whether the network is told the class."""
        return self.config.network.num_classes is not None

    def denoiser(self, y: Tensor | None, *, clip: float | None = 1.0) -> NetworkDenoiser:
        """The network as a Denoiser, with labels y (B,) bound where it is conditional; otherwise y is not used."""
        network = partial(self.network, y=y) if self.is_conditional else self.network
        return NetworkDenoiser(network, self.config.prediction, self.config.variance, clip)


def load_diffusion(path: Path, *, weights: str | None = None, device: torch.device | str = "cpu") -> DiffusionModel:
    """The diffusion model of a checkpoint or run directory, with the named weights or the slowest average.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: a checkpoint of another kind, or weights that it has not or that do not fit.
    """
    checkpoint = open_checkpoint(path, "diffusion")
    config = from_plain(DiffusionConfig, checkpoint.model, source=str(checkpoint.path / "config.json"))
    with torch.device("meta"):
        network = UNet(config.network)
    load_weights(network, checkpoint, weights)
    network.eval().requires_grad_(False).to(device)
    return DiffusionModel(config, network, checkpoint, weights or checkpoint.default_weights())


def class_difference(model: Sequence[str], classifier: Sequence[str]) -> str | None:
    """How a classifier's classes differ from those of a diffusion model's data, or None where it can guide the model.

    A model without class names, such as an imported unconditional one, takes any classifier's.
    """
    if not model:
        return None
    for label, (ours, theirs) in enumerate(zip(model, classifier, strict=False)):
        if ours != theirs:
            return f'label {label} is "{theirs}" to the classifier, but "{ours}" to the diffusion model'
    if len(model) != len(classifier):
        return f"the classifier knows {len(classifier)} classes, the diffusion model's data had {len(model)}"
    return None
