"""Enlarge samples: python scripts/upsample.py --upsampler RUN --base runs/samples --out runs/enlarged"""

from collections.abc import Sequence

from ..config import run_command
from ..generation.cascade import UpsampleConfig, upsample


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; argv: None takes the process's own arguments."""
    run_command(UpsampleConfig, upsample, argv)
