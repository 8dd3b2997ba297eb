"""A classifier of clean images as a feature extractor, for images unlike the photographs Inception was trained on."""

from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from classifiers.trained_model import Classifier, load_classifier

from ...diffusion.images import from_uint8
from ...models.precision import exact_float32
from .features import Features, on_device

SPATIAL_CHANNELS = 7
"""Channels of the last feature map that spatial features keep, as sFID keeps 7 of Inception's."""


@dataclass(frozen=True)
class ClassifierFeatures:
    """A trained classifier as a FeatureExtractor; numbers on its features are called FD, never FID."""

    classifier: Classifier
    name: str
    sha256: str
    published: None = None
    resize: str = "none"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classifier's classes."""
        return self.classifier.config.class_names

    @torch.no_grad()
    def __call__(self, images_uint8: Tensor) -> Features:
        """The pooled vector, 7 channels of the last feature map, and class probabilities, of images (N, C, H, W)."""
        network = self.classifier.network
        config, side = network.config, network.config.image_size
        _, channels, height, width = images_uint8.shape
        if channels != config.in_channels:
            raise ValueError(
                f"{self.name} was trained on images of {config.in_channels} channels, got {channels}; take an "
                f"extractor that was trained on such images"
            )
        if config.pooling == "attention" and (height, width) != (side, side):
            raise ValueError(
                f"{self.name} takes images of {side}x{side} pixels, got {height}x{width}; "
                f"--protocol.image_size {side} crops pictures to that, other images need another extractor"
            )
        device = next(network.parameters()).device
        images = from_uint8(on_device(images_uint8, device))
        with exact_float32():
            feature_map = network.feature_map(images, torch.zeros(len(images), device=device))
            pooled = network.pooled(feature_map)
            probabilities = network.head(pooled).softmax(dim=1)
        spatial = rearrange(feature_map[:, :SPATIAL_CHANNELS], "n c h w -> n (h w c)")
        return Features(pooled=pooled, spatial=spatial, probabilities=probabilities)


def load_classifier_features(run: Path, *, device: torch.device | str) -> ClassifierFeatures:
    """The extractor "classifier:RUN"; a classifier of noisy images is a ValueError: its features of clean ones mean
    little."""
    classifier = load_classifier(run, device=device)
    if classifier.config.chain is not None:
        raise ValueError(
            f"{classifier.checkpoint.path} was trained on noisy images and would judge its own guidance; train one on "
            f"clean images: --diffusion null, also where a config file names a diffusion run"
        )
    return ClassifierFeatures(classifier, name=f"classifier:{run}", sha256=classifier.sha256)
