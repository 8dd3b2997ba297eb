"""What evaluation asks of a network: from pictures to three kinds of features, and who computed them."""

import re
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

PublishedNetwork = Literal["inception-2015", "dinov2-vitl14"]
"""Networks whose numbers have names of their own."""


@dataclass(frozen=True)
class Features:
    """Features of N images.

    pooled: (N, D), for most numbers. spatial: (N, S), an early feature map flattened as height, width, channel, for the
    spatial Fréchet distance. probabilities: (N, C), class probabilities, rows summing to one. None: this network has
    none of that kind.
    """

    pooled: Tensor
    spatial: Tensor | None = None
    probabilities: Tensor | None = None


class FeatureExtractor(Protocol):
    """A network that measures images. Must treat each image by itself: no batch statistics, no random augmentation."""

    @property
    def name(self) -> str:
        """Printed beside every number: "inception-2015", "classifier:runs/judge"."""
        ...

    @property
    def sha256(self) -> str:
        """Hexadecimal hash of the weights."""
        ...

    @property
    def published(self) -> PublishedNetwork | None:
        """Which published network this is, with its published weights; None: none, so that its numbers are called
        neither FID nor FD-DINOv2."""
        ...

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """What the C classes are called, if that is known; labels of samples are matched by these names."""
        ...

    def __call__(self, images_uint8: Tensor) -> Features:
        """Features of images (N, C, H, W) uint8 0..255, which may arrive on any device."""
        ...


def slug(name: str) -> str:
    """An extractor's name as part of a file name: "classifier:runs/judge" becomes "classifier-runs-judge"."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-")
