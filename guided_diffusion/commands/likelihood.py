"""Bits per dimension of held-out images: python scripts/likelihood.py --diffusion RUN --data.path HELDOUT"""

from collections.abc import Sequence

from ..config import run_command
from ..generation.likelihood import LikelihoodConfig, likelihood


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; argv: None takes the process's own arguments."""
    run_command(LikelihoodConfig, likelihood, argv)
