"""Diagnose a classifier: python scripts/diagnose_classifier.py --classifier RUN --data.path HELDOUT"""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from textwrap import fill

from ..config import check_at_least, run_command
from ..data.config import DataConfig, refuse_among
from ..distributed import default_device
from ..files import atomic_write, write_json


@dataclass(frozen=True, kw_only=True)
class DiagnoseConfig:
    """Measure a classifier on held-out images, noise level by noise level, and say whether it is fit to guide."""

    classifier: Path
    """Run directory or checkpoint of the classifier."""
    data: DataConfig
    """Held-out images."""
    max_images: int = 5000
    """Most images to use, evenly spaced."""
    levels: int = 11
    """Noise levels, evenly spread over its chain, both ends included."""
    batch_size: int = 64
    """Images at a time; gradients need as much memory as guided sampling does."""
    seed: int = 0
    """Seed of the noise."""
    out: Path | None = None
    """JSON file to write, a figure beside it; null: diagnosis.json in the run directory of the classifier."""

    def __post_init__(self) -> None:
        check_at_least(self, max_images=1, levels=1, batch_size=1)
        if self.out is not None and self.out.suffix != ".json":
            raise ValueError(f"out is a JSON file, and the figure beside it ends in .png; got {self.out}, not *.json")


def diagnose_classifier(config: DiagnoseConfig) -> None:
    """Print the measurements and the verdict; write both as JSON, and a figure of several levels beside it."""
    # Here, so that --help does not import what reads images and draws figures.
    from classifiers.diagnosis import diagnosed
    from classifiers.diagnosis_report import diagnosis_figure, format_diagnosis
    from classifiers.diagnosis_verdict import verdict
    from classifiers.trained_model import load_classifier

    refuse_among(config.data.path, config.out)
    classifier = load_classifier(config.classifier, device=default_device())
    counts = {"max_images": config.max_images, "num_levels": config.levels, "batch_size": config.batch_size}
    diagnosis = diagnosed(classifier, config.data, **counts, seed=config.seed)
    sentences = verdict(diagnosis)
    print(format_diagnosis(diagnosis), *(fill(sentence, width=100) for sentence in sentences), sep="\n\n")
    out = config.out or classifier.checkpoint.path.parent / "diagnosis.json"
    write_json(out, asdict(diagnosis) | {"verdict": sentences})
    if len(diagnosis.levels) > 1:
        with atomic_write(out.with_suffix(".png")) as file:
            diagnosis_figure(diagnosis).savefig(file, format="png", dpi=150)
    print(f"\nwritten to {out}")


main = partial(run_command, DiagnoseConfig, diagnose_classifier)
