"""Train a classifier: python scripts/train_classifier.py --config configs/digits/classifier.yaml --diffusion RUN"""

from collections.abc import Sequence

from classifiers.training import TrainClassifierConfig, train_classifier

from ..config import run_command


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; argv: None takes the process's own arguments."""
    run_command(TrainClassifierConfig, train_classifier, argv)
