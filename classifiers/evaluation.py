"""The evaluation command: which extractor measures, by name, and the report on the screen."""

from dataclasses import dataclass
from pathlib import Path

import torch

from classifiers.features import load_classifier_features
from guided_diffusion.evaluation.config import EvaluationConfig
from guided_diffusion.evaluation.features import FeatureExtractor
from guided_diffusion.evaluation.inception import InceptionConfig, load_inception
from guided_diffusion.evaluation.report import format_report
from guided_diffusion.evaluation.run import evaluate, this_device

CLASSIFIER_PREFIX = "classifier:"


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Compare generated images with real ones."""

    generated: Path
    """Directory of sample shards, published npz batch, or folder of pictures."""
    real: Path
    """Folder of pictures, npz batch, or npz of reference statistics."""
    extractor: str = "inception"
    """inception (the 2015 network: FID), or classifier:RUN, a classifier of ours trained on clean images (FD)."""
    inception: InceptionConfig = InceptionConfig()
    """Where Inception's weights are."""
    protocol: EvaluationConfig = EvaluationConfig()
    """Settings of the metrics; the defaults are the published ones."""
    out: Path | None = None
    """JSON report to write; null: evaluation-<extractor>.json beside the samples."""


def evaluate_samples(config: EvaluateConfig) -> None:
    """Measure, write the report and print it on the main process.

    Raises:
        ValueError, FileNotFoundError, ImportError: as the extractor and `evaluate` raise them.
    """
    device, is_main_process = this_device()
    extractor = open_extractor(config.extractor, config.inception, device=device)
    report = evaluate(
        generated=config.generated, real=config.real, extractor=extractor, config=config.protocol, out=config.out
    )
    if is_main_process:
        print(format_report(report))


def open_extractor(name: str, inception: InceptionConfig, *, device: torch.device) -> FeatureExtractor:
    """The extractor of that name.

    Raises:
        ValueError: a name of no extractor.
    """
    if name == "inception":
        return load_inception(inception, device=device)
    if name.startswith(CLASSIFIER_PREFIX):
        return load_classifier_features(Path(name.removeprefix(CLASSIFIER_PREFIX)), device=device)
    raise ValueError(f'there is no extractor "{name}"; give inception or {CLASSIFIER_PREFIX}RUN')
