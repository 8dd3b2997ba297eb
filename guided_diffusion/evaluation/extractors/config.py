"""Choice of the feature extractor, and the table that turns its name into the network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from .classifier_features import load_classifier_features
from .dinov2 import load_dinov2
from .features import FeatureExtractor
from .inception import load_inception

EXTRACTORS: Mapping[str, Callable[..., FeatureExtractor]] = {"inception": load_inception, "dinov2": load_dinov2}
"""Loaders of published networks; each takes the file of the weights, or None, and `device`."""
CLASSIFIER_PREFIX = "classifier:"
"""Before the run directory of a trained classifier."""


@dataclass(frozen=True, kw_only=True)
class ExtractorConfig:
    """Network whose features are compared."""

    name: str = "inception"
    """inception (the 2015 network: FID), dinov2 (FD-DINOv2), or classifier:RUN, a classifier of clean images (FD)."""
    weights: Path | None = None
    """File of the published weights of inception or dinov2.

    null: the environment variable GUIDED_DIFFUSION_INCEPTION_WEIGHTS or GUIDED_DIFFUSION_DINOV2_WEIGHTS, or a download.
    """

    def __post_init__(self) -> None:
        if self.weights is not None and self.name.startswith(CLASSIFIER_PREFIX):
            raise ValueError(f"--extractor.weights is for {' and '.join(EXTRACTORS)}; {self.name} has its own weights")


def open_extractor(config: ExtractorConfig, *, device: torch.device) -> FeatureExtractor:
    """The extractor of that name on `device`.

    Raises:
        ValueError: an unknown name, or weights that do not fit.
        FileNotFoundError: missing weights.
        ImportError: a missing optional package.
    """
    if config.name.startswith(CLASSIFIER_PREFIX):
        return load_classifier_features(Path(config.name.removeprefix(CLASSIFIER_PREFIX)), device=device)
    if config.name not in EXTRACTORS:
        names = f"{', '.join(EXTRACTORS)} or {CLASSIFIER_PREFIX}RUN"
        raise ValueError(f'there is no extractor "{config.name}"; give {names} with --extractor.name')
    return EXTRACTORS[config.name](config.weights, device=device)
