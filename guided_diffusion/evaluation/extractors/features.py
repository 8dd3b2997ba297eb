"""What evaluation asks of a network: from pictures to three kinds of features, and who computed them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
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
    def resize(self) -> str:
        """How it brings images to the size that the network takes, in words."""
        ...

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """What the C classes are called, if that is known; labels of samples are matched by these names."""
        ...

    def __call__(self, images_uint8: Tensor) -> Features:
        """Features of images (N, C, H, W) uint8 0..255, which may arrive on any device."""
        ...


@contextmanager
def exact_float32() -> Iterator[None]:
    """Within, float32 convolutions and matrix products keep all their bits; every extractor computes so.

    Left to itself, cuDNN convolves with TensorFloat-32's 10 bits of mantissa, and a program may have allowed that to
    matrix products, or bfloat16 to a CPU's. Settings are the process's and are put back afterwards.
    """
    backends: Any = torch.backends  # settings are attributes of objects that stand for modules, which have no types
    operations = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul)
    before = [operation.fp32_precision for operation in operations]
    try:
        for operation in operations:
            operation.fp32_precision = "ieee"
        yield
    finally:
        for operation, precision in zip(operations, before, strict=True):
            operation.fp32_precision = precision


def as_rgb(images_uint8: Tensor, *, network: str) -> Tensor:
    """Images (N, 1 or 3, H, W) uint8 as (N, 3, H, W), grey ones repeated.

    Raises ValueError for other types and channel counts, in the name of `network`.
    """
    if images_uint8.dtype != torch.uint8 or images_uint8.ndim != 4 or images_uint8.shape[1] not in (1, 3):
        raise ValueError(
            f"{network} takes uint8 images (N, 1 or 3, H, W), got {images_uint8.dtype} {tuple(images_uint8.shape)}"
        )
    return images_uint8.expand(-1, 3, -1, -1)


def slug(name: str) -> str:
    """An extractor's name as part of a file name: "classifier:runs/judge" becomes "classifier-runs-judge"."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-")
