"""Opening of the two sets of an evaluation, and their checks: readable, large enough, and comparable."""

from dataclasses import dataclass
from pathlib import Path

import torch

from ..data.config import Labels
from ..data.formats.tree import files_sha256
from ..data.image_set import ImageSet, open_image_set
from .config import EvaluationConfig
from .extractors.features import FeatureExtractor
from .extractors.inception import WEIGHTS as INCEPTION
from .measure import MeasuredSet
from .reference import Reference, read_reference


@dataclass(frozen=True, kw_only=True)
class RealInput:
    """Real images, statistics of them, or both."""

    path: Path
    images: ImageSet | None
    """None: statistics only."""
    reference: Reference | None
    """Stored statistics; None: images only."""
    files_sha256: str
    """Hash of names, sizes and times of change of the files."""


@dataclass(frozen=True, kw_only=True)
class MeasuredReal:
    """Real images after their pass, for any number of evaluations with the same extractor and settings."""

    input: RealInput
    measured: MeasuredSet
    shape: tuple[int, int, int]
    """Of the generated images that they are compared with: (H, W, C)."""
    extractor_sha256: str
    config: EvaluationConfig


def open_generated(
    path: Path, *, config: EvaluationConfig, channels: int | None = None, labels: Labels | None = None
) -> ImageSet:
    """The generated images at `path`; unreadable ones are refused, and sets that are too small."""
    samples = open_image_set(path, image_size=config.image_size, channels=channels, labels=labels, window=config.window)
    config.check_num_images(len(samples), f"{path} holds")
    return samples


def open_real(
    path: Path,
    *,
    shape: tuple[int, int, int],
    extractor: FeatureExtractor,
    config: EvaluationConfig,
    labels: Labels | None = None,
) -> RealInput:
    """The real images or statistics at `path`; refused unless comparable with generated images of `shape` (H, W, C)."""
    reference = read_reference(path) if path.suffix == ".npz" and path.is_file() else None
    if reference is not None:
        _check_reference(path, reference, shape, extractor)
    height, width, channels = shape
    images = None
    if reference is None or reference.has_images:
        size = height if height == width else None
        images = open_image_set(path, image_size=size, channels=channels, labels=labels, window=config.window)
        if images.shape != shape:
            raise ValueError(
                f"the generated images have {height}x{width} pixels, those of {path} {images.shape[0]}x"
                f"{images.shape[1]}; compare sets of one size"
            )
        config.check_num_images(len(images), f"{path} holds")
    fingerprint = files_sha256(path) if images is None else images.files_sha256()
    return RealInput(path=path, images=images, reference=reference, files_sha256=fingerprint)


def _check_reference(
    path: Path, reference: Reference, shape: tuple[int, int, int], extractor: FeatureExtractor
) -> None:
    """Refuse statistics of another extractor, of images of another shape, or of features of other dimensions."""
    if reference.extractor_sha256 is None and extractor.published != INCEPTION:
        raise ValueError(
            f"{path} does not name the network of its statistics, so they count as the published 2015 Inception's, "
            f"which {extractor.name} is not; give the images themselves as --real"
        )
    if reference.extractor_sha256 not in (None, extractor.sha256):
        raise ValueError(
            f"{path} was made with {reference.extractor} (SHA-256 {reference.extractor_sha256}), "
            f"not with {extractor.name} ({extractor.sha256}); use the same extractor for both sides"
        )
    height, width, channels = shape
    for name, wanted in (("image_size", [height, width]), ("channels", channels)):
        stored = (reference.record or {}).get(name, wanted)  # published files have no record
        if stored != wanted:
            raise ValueError(
                f"the generated images have {name} {wanted}, the images of the statistics in {path} {stored}; make a "
                f"reference of images like the generated ones"
            )
    features = extractor(torch.zeros(1, channels, height, width, dtype=torch.uint8))  # only it knows their dimensions
    pairs = {"mu": (reference.pooled, features.pooled), "mu_s": (reference.spatial, features.spatial)}
    for name, (stored, found) in pairs.items():
        if stored is not None and found is not None and len(stored.mean) != found.shape[1]:
            raise ValueError(
                f"{path} holds {name} of {len(stored.mean)} dimensions, but features of {extractor.name} have "
                f"{found.shape[1]}; make the reference again with this extractor"
            )
