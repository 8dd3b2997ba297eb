"""The interface of a feature extractor, and the arithmetic and input checks that all extractors share."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ...models.precision import exact_float32
from .weights import PublishedWeights


@dataclass(frozen=True)
class Features:
    """Features of N images.

    pooled: (N, D), the input of most metrics. spatial: (N, S), an early feature map flattened as height, width,
    channel, for the spatial Fréchet distance. probabilities: (N, C), rows summing to one. None: the network has none.
    """

    pooled: Tensor
    spatial: Tensor | None = None
    probabilities: Tensor | None = None


class FeatureExtractor(Protocol):
    """A network that extracts features, each image's independently of its batch and without random augmentation.

    name: printed beside every number: "inception-2015", "classifier:runs/judge". sha256: hexadecimal hash of the
    weights. published: the published weights, if it has these; only then are its numbers called FID or FD-DINOv2.
    resize: description of the resize to the network's input size. class_names: of the C classes, if known; labels of
    samples are matched by these names.
    """

    @property
    def name(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def published(self) -> PublishedWeights | None: ...
    @property
    def resize(self) -> str: ...
    @property
    def class_names(self) -> tuple[str, ...] | None: ...

    def __call__(self, images_uint8: Tensor) -> Features:
        """Features of images (N, C, H, W) uint8 0..255, which may be on any device."""
        ...


@dataclass(frozen=True)
class PublishedExtractor:
    """A network with published weights, or with others, as a FeatureExtractor. Grey images become three channels."""

    network: nn.Module
    sha256: str
    weights: PublishedWeights
    resize: str
    features: Callable[[nn.Module, Tensor, torch.device], Features]
    """From the network, images (N, 1 or 3, H, W) uint8 and the device to compute on."""
    class_names: None = None

    @property
    def published(self) -> PublishedWeights | None:
        """The published weights, if these are they."""
        return self.weights if self.sha256 == self.weights.sha256 else None

    @property
    def name(self) -> str:
        """Name of the network; with other weights, marked by the beginning of their hash."""
        return self.weights.name if self.published else f"{self.weights.name}-weights-{self.sha256[:8]}"

    @torch.inference_mode()
    def __call__(self, images_uint8: Tensor) -> Features:
        """Features of images (N, 1 or 3, H, W) uint8; a ValueError for others."""
        if images_uint8.dtype != torch.uint8 or images_uint8.ndim != 4 or images_uint8.shape[1] not in (1, 3):
            raise ValueError(
                f"{self.weights.network} takes uint8 images (N, 1 or 3, H, W), got {images_uint8.dtype} "
                f"{tuple(images_uint8.shape)}"
            )
        device = next(self.network.parameters()).device
        with exact_float32():
            return self.features(self.network, images_uint8, device)


def on_device(images: Tensor, device: torch.device) -> Tensor:
    """The images on `device`. To a GPU they go by way of pinned memory: the host does not wait until it has computed
    what came before."""
    to_gpu = device.type == "cuda" and images.device.type == "cpu"
    return (images.pin_memory() if to_gpu else images).to(device, non_blocking=to_gpu)


def slug(name: str) -> str:
    """An extractor's name as part of a file name: "classifier:runs/judge" becomes "classifier-runs-judge"."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-")
