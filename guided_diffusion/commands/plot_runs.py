"""Curves of training runs: python scripts/plot_runs.py --runs '[runs/diffusion]' --out curves.png"""

from collections.abc import Sequence

from ..config import run_command
from ..training.curves import PlotConfig, plot_runs


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; argv: None takes the process's own arguments."""
    run_command(PlotConfig, plot_runs, argv)
