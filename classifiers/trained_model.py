"""A trained classifier as a whole: network, chain of its training noise, and names of classes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from guided_diffusion.checkpoint import Checkpoint, open_checkpoint
from guided_diffusion.diffusion.model import check_class_names, load_network
from guided_diffusion.diffusion.schedules import ChainConfig
from guided_diffusion.files import file_sha256

from .model import ClassifierConfig, NoisyClassifier, log_probabilities

DISCRIMINATOR_CLASSES = ("generated", "real")
"""Classes of a discriminator: images that a diffusion model made without guidance, and those of its training."""

GUIDES: Mapping[str, str] = {
    "regression": "--guidance.function regression --guidance.function_options '{run: RUN, target: VALUE}'",
    "attributes": "--guidance.function attributes --guidance.function_options '{run: RUN, wanted: {NAME: true}}'",
}
"""Kinds of checkpoints with another target than classes, and the options with which they guide."""


@dataclass(frozen=True, kw_only=True)
class ClassifierModelConfig:
    """A classifier apart from its weights: the "model" of its checkpoint's config.json."""

    network: ClassifierConfig
    """The encoder and its pooling."""
    chain: ChainConfig | None
    """The chain of the diffusion model whose noise it was trained on; null: clean images only."""
    class_names: tuple[str, ...]
    """Names of the classes, in label order."""

    def __post_init__(self) -> None:
        check_class_names(self.class_names, self.network.num_classes)


@dataclass(frozen=True)
class Classifier:
    """A classifier ready for use: in evaluation mode, its parameters frozen."""

    config: ClassifierModelConfig
    network: NoisyClassifier
    """May be an `EvaluatedNetwork` around one, which gives logits alone."""
    checkpoint: Checkpoint
    weights: str
    """Name of these weights in the checkpoint."""

    @property
    def name(self) -> str:
        """Run and checkpoint, for messages and manifests."""
        return self.checkpoint.name

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in label order."""
        return self.config.class_names

    @cached_property
    def sha256(self) -> str:
        """Of the file of its weights."""
        return file_sha256(self.checkpoint.weights_file(self.weights))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images it was trained on."""
        network = self.config.network
        return network.in_channels, network.image_size, network.image_size

    def log_prob(self, x_t: Tensor, t: Tensor) -> Tensor:
        """log p(y | x_t, t) of every class, (B, num_classes), nats."""
        return log_probabilities(self.network(x_t, t))


def load_classifier(path: Path, *, weights: str | None = None, device: torch.device | str = "cpu") -> Classifier:
    """The classifier of a checkpoint or run directory.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: a checkpoint of another kind, or weights that are missing or do not fit.
    """
    checkpoint = open_checkpoint(path, "classifier", *GUIDES)
    if checkpoint.kind in GUIDES:
        options = GUIDES[checkpoint.kind].replace("RUN", str(path))
        raise ValueError(
            f"{checkpoint.path} was trained with --target {checkpoint.kind} and is no classifier; it guides as "
            f"{options}"
        )
    return Classifier(
        *load_network(path, "classifier", ClassifierModelConfig, NoisyClassifier, weights=weights, device=device)
    )
