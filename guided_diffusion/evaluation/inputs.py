"""The two sets of an evaluation before anything is measured: opened, and refused if they cannot be compared."""

from dataclasses import dataclass
from pathlib import Path

import torch

from ..data.formats.tree import files_sha256
from ..data.image_set import ImageSet, open_image_set
from .config import EvaluationConfig
from .extractors.features import FeatureExtractor
from .reference import Reference, read_reference


@dataclass(frozen=True, kw_only=True)
class RealSide:
    """What samples are compared with, before it is measured."""

    path: Path
    images: ImageSet | None
    """None: there are statistics only."""
    reference: Reference | None
    """Stored statistics; None: there are images only."""
    files_sha256: str
    """Of names, sizes and times of change: that of images, `files_sha256` of a file of statistics."""


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The two sets before anything is measured."""

    generated: ImageSet
    real: RealSide


def open_generated(path: Path, *, config: EvaluationConfig) -> ImageSet:
    """The generated images at `path`.

    Raises:
        FileNotFoundError, ValueError: as `open_image_set`, and for fewer than the neighbours that are looked at.
    """
    samples = open_image_set(path, image_size=config.image_size)
    _check_neighbours(samples, config)
    return samples


def open_real(
    path: Path, *, shape: tuple[int, int, int], extractor: FeatureExtractor, config: EvaluationConfig
) -> RealSide:
    """The real side at `path`, fit to be compared with generated images of `shape` (H, W, C).

    Raises:
        FileNotFoundError, ValueError: as `evaluate`, of that side.
    """
    reference = read_reference(path) if path.suffix == ".npz" and path.is_file() else None
    if reference is not None:
        _check_extractor(path, reference, extractor)
        _check_shape(path, reference, shape)
        _check_dimensions(path, reference, extractor, shape)
    height, width, channels = shape
    images = None
    if reference is None or reference.has_images:
        images = open_image_set(path, image_size=height if height == width else None, channels=channels)
        if images.shape != shape:
            raise ValueError(
                f"the generated images have {height}x{width} pixels, those of {path} {images.shape[0]}x"
                f"{images.shape[1]}; compare sets of one size"
            )
        _check_neighbours(images, config)
    fingerprint = files_sha256(path) if images is None else images.files_sha256()
    return RealSide(path=path, images=images, reference=reference, files_sha256=fingerprint)


def _check_neighbours(source: ImageSet, config: EvaluationConfig) -> None:
    if len(source) <= config.neighbours:
        raise ValueError(
            f"{source.path} holds {len(source)} images, but precision and recall look at {config.neighbours} "
            f"neighbours of each; give more images"
        )


def _check_extractor(path: Path, reference: Reference, extractor: FeatureExtractor) -> None:
    if reference.extractor_sha256 is None and extractor.published != "inception-2015":
        raise ValueError(
            f"{path} does not say which network its statistics are of, so they count as the published 2015 "
            f"Inception's, which {extractor.name} is not; give the images themselves as the real side"
        )
    if reference.extractor_sha256 not in (None, extractor.sha256):
        raise ValueError(
            f"{path} was made with {reference.extractor} (SHA-256 {reference.extractor_sha256}), "
            f"not with {extractor.name} ({extractor.sha256}); use the same extractor for both sides"
        )


def _check_shape(path: Path, reference: Reference, shape: tuple[int, int, int]) -> None:
    """By what the reference's record says; published files have none."""
    height, width, channels = shape
    told = reference.record or {}
    made_of = told.get("image_size", [height, width])
    if made_of != [height, width]:
        raise ValueError(
            f"the generated images have {height}x{width} pixels, those that the statistics in {path} are of "
            f"{made_of[0]}x{made_of[1]}; make a reference of images of one size with them"
        )
    if told.get("channels", channels) != channels:
        raise ValueError(
            f"the generated images have {channels} channels, those that the statistics in {path} are of "
            f"{told['channels']}; make a reference of images with as many"
        )


def _check_dimensions(
    path: Path, reference: Reference, extractor: FeatureExtractor, shape: tuple[int, int, int]
) -> None:
    """By what the extractor makes of one black image: nothing but the network knows its dimensions."""
    height, width, channels = shape
    features = extractor(torch.zeros(1, channels, height, width, dtype=torch.uint8))
    for name, stored, found in (
        ("mu", reference.pooled, features.pooled),
        ("mu_s", reference.spatial, features.spatial),
    ):
        if stored is not None and found is not None and len(stored.mean) != found.shape[1]:
            raise ValueError(
                f"{path} holds {name} of {len(stored.mean)} dimensions, but features of {extractor.name} have "
                f"{found.shape[1]}; make the reference again with this extractor"
            )
