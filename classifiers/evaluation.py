"""The evaluation command: which extractor measures, by name, and the report on the screen."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from classifiers.features import load_classifier_features
from guided_diffusion.evaluation.comparison import compared, format_comparison
from guided_diffusion.evaluation.config import EvaluationConfig
from guided_diffusion.evaluation.dinov2 import DinoV2Config, load_dinov2
from guided_diffusion.evaluation.features import FeatureExtractor
from guided_diffusion.evaluation.inception import InceptionConfig, load_inception
from guided_diffusion.evaluation.page import write_comparison_page
from guided_diffusion.evaluation.report import format_report
from guided_diffusion.evaluation.run import evaluate, page_path, report_path, this_device

CLASSIFIER_PREFIX = "classifier:"


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Compare generated images with real ones, or evaluations with one another."""

    generated: Path | None = None
    """Directory of samples, npz batch, folder or .zip of pictures, WebDataset shards, prepared images, or a saved
    Hugging Face dataset."""
    real: Path | None = None
    """The same, or an npz of reference statistics: published ones, or those that make_reference.py wrote."""
    extractor: str = "inception"
    """inception (the 2015 network: FID), dinov2 (FD-DINOv2), or classifier:RUN, one of ours of clean images (FD)."""
    inception: InceptionConfig = InceptionConfig()
    """Where Inception's weights are."""
    dinov2: DinoV2Config = DinoV2Config()
    """Where DINOv2's weights are."""
    protocol: EvaluationConfig = EvaluationConfig()
    """Settings of the metrics; the defaults are the published ones."""
    out: Path | None = None
    """JSON report to write, and beside it a page NAME.html; null: evaluation-<extractor>.json beside the samples. With
    compare, the page alone, NAME.html."""
    compare: tuple[Path, ...] = ()
    """JSON reports to compare with one another, in place of images: --compare A.json B.json."""

    def __post_init__(self) -> None:
        given = [f"--{name}" for name in ("generated", "real") if getattr(self, name) is not None]
        if self.compare and given:
            raise ValueError(f"--compare takes evaluations that were made; leave out {' and '.join(given)}")
        if self.compare and self.out is not None and self.out.suffix != ".html":
            raise ValueError(f"with --compare, --out is a page NAME.html; got {self.out}")
        missing = [name for name in ("--generated", "--real") if name not in given]
        if not self.compare and missing:
            raise ValueError(
                f"needed and not given: {', '.join(missing)}; or compare evaluations, --compare A.json B.json"
            )


def evaluate_samples(config: EvaluateConfig) -> None:
    """Measure, write the report and print it on the main process; or compare reports, if there are any to compare.

    Raises:
        ValueError, FileNotFoundError, ImportError: as the extractor, `evaluate` and `compared` raise them.
    """
    if config.compare:
        compare_evaluations(config.compare, page=config.out)
        return
    assert config.generated is not None  # as `__post_init__` makes sure
    assert config.real is not None
    device, is_main_process = this_device()
    extractor = open_extractor(config.extractor, config.inception, config.dinov2, device=device)
    out = config.out or report_path(config.generated, extractor)
    report = evaluate(
        generated=config.generated, real=config.real, extractor=extractor, config=config.protocol, out=out, page=True
    )
    if is_main_process:
        print(f"{format_report(report)}\n\n{out}\n{page_path(out)}")


def compare_evaluations(reports: Sequence[Path], *, page: Path | None) -> None:
    """Print how evaluations and their protocols differ; page: HTML file that says so as well.

    Raises:
        ValueError, FileNotFoundError: fewer than two reports, or files that are none.
    """
    comparison = compared(reports)
    print(format_comparison(comparison))
    if page is not None:
        write_comparison_page(page, comparison)


def open_extractor(
    name: str, inception: InceptionConfig, dinov2: DinoV2Config, *, device: torch.device
) -> FeatureExtractor:
    """The extractor of that name, which looks for its weights as its own of the two settings says.

    Raises:
        ValueError: a name of no extractor.
        FileNotFoundError, ImportError, ValueError: as the extractor is loaded.
    """
    if name == "inception":
        return load_inception(inception, device=device)
    if name == "dinov2":
        return load_dinov2(dinov2, device=device)
    if name.startswith(CLASSIFIER_PREFIX):
        return load_classifier_features(Path(name.removeprefix(CLASSIFIER_PREFIX)), device=device)
    raise ValueError(f'there is no extractor "{name}"; give inception, dinov2 or {CLASSIFIER_PREFIX}RUN')
