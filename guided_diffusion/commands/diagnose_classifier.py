"""Is a classifier fit to guide? python scripts/diagnose_classifier.py --classifier RUN --data.path HELDOUT"""

from collections.abc import Sequence

from classifiers.diagnosis import DiagnoseConfig, diagnose

from ..config import run_command


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; argv: None takes the process's own arguments."""
    run_command(DiagnoseConfig, diagnose, argv)
