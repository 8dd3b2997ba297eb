"""The extractor of an evaluation by its name, from wherever its weights are."""

from dataclasses import dataclass
from pathlib import Path

import torch

from .classifier_features import load_classifier_features
from .dinov2 import DinoV2Config, load_dinov2
from .features import FeatureExtractor
from .inception import InceptionConfig, load_inception

CLASSIFIER_PREFIX = "classifier:"


@dataclass(frozen=True, kw_only=True)
class ExtractorConfig:
    """Which network measures."""

    extractor: str = "inception"
    """inception (the 2015 network: FID), dinov2 (FD-DINOv2), or classifier:RUN, one of ours of clean images (FD)."""
    inception: InceptionConfig = InceptionConfig()
    """Where Inception's weights are."""
    dinov2: DinoV2Config = DinoV2Config()
    """Where DINOv2's weights are."""


def open_extractor(config: ExtractorConfig, *, device: torch.device) -> FeatureExtractor:
    """The extractor that is asked for.

    Raises:
        ValueError: a name of no extractor.
        FileNotFoundError, ImportError, ValueError: as the extractor is loaded.
    """
    name = config.extractor
    if name == "inception":
        return load_inception(config.inception, device=device)
    if name == "dinov2":
        return load_dinov2(config.dinov2, device=device)
    if name.startswith(CLASSIFIER_PREFIX):
        return load_classifier_features(Path(name.removeprefix(CLASSIFIER_PREFIX)), device=device)
    raise ValueError(f'there is no extractor "{name}"; give inception, dinov2 or {CLASSIFIER_PREFIX}RUN')
