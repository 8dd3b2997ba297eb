"""Samples as others read them: python scripts/export_samples.py --samples runs/samples --out samples.npz"""

from collections.abc import Sequence

from ..config import run_command
from ..generation.export import ExportConfig, export_samples


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; argv: None takes the process's own arguments."""
    run_command(ExportConfig, export_samples, argv)
