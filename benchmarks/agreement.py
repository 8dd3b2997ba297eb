"""Agreement with torch-fidelity: every common number, on the same pictures with the same Inception weights.

python benchmarks/agreement.py --generated DIR --real DIR [--weights FILE]
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from guided_diffusion.config import run_command
from guided_diffusion.evaluation.config import EvaluationConfig
from guided_diffusion.evaluation.extractors.inception import WEIGHTS, load_inception
from guided_diffusion.evaluation.extractors.weights import find_weights
from guided_diffusion.evaluation.run import evaluate

THEIRS = {
    "frechet_distance": "frechet_inception_distance",
    "inception_score": "inception_score_mean",
    "kernel_distance": "kernel_inception_distance_mean",
    "kernel_distance_std": "kernel_inception_distance_std",
    "precision": "precision",
    "recall": "recall",
}
"""torch-fidelity's names of our metrics."""


@dataclass(frozen=True, kw_only=True)
class AgreementConfig:
    """Evaluates with both, on the CPU."""

    generated: Path
    """Folder of pictures of one size, more than 2,048 of them, or covariances are singular."""
    real: Path
    """The same."""
    weights: Path | None = None
    """Inception's, torch-fidelity's file; null: as evaluate.py finds them."""
    batch_size: int = 64
    """Images at a time, of both."""


def compare(config: AgreementConfig) -> None:
    """Prints a row for each number.

    Raises:
        ImportError: no torch-fidelity.
    """
    from torch_fidelity import calculate_metrics

    weights = find_weights(WEIGHTS, config.weights)
    settings = EvaluationConfig(batch_size=config.batch_size, split_size=10**9, real_manifold=50_000)
    with TemporaryDirectory() as directory:
        ours = evaluate(
            generated=config.generated,
            real=config.real,
            extractor=load_inception(weights),
            config=settings,
            out=Path(directory) / "report.json",
        ).metrics
    theirs = calculate_metrics(
        input1=str(config.generated), input2=str(config.real), feature_extractor_weights_path=str(weights),
        # Which it would otherwise choose itself, VGG for precision and recall.
        feature_extractor="inception-v3-compat",
        isc=True, fid=True, kid=True, prc=True, isc_splits=1, samples_find_deep=True, samples_shuffle=False,
        cuda=torch.cuda.is_available(), cache=False, batch_size=config.batch_size, verbose=False,
    )  # fmt: skip
    print(f"{'metric':>20} {'ours':>20} {'torch-fidelity':>20} {'difference':>11}")
    for name, their_name in THEIRS.items():
        one, other = ours[name], theirs[their_name]
        print(f"{name:>20} {one:20.12g} {other:20.12g} {(one - other) / abs(other):11.1e}")


if __name__ == "__main__":
    run_command(AgreementConfig, compare)
