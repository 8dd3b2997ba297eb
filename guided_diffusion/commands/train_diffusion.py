"""Train a diffusion model: python scripts/train_diffusion.py --config configs/digits/diffusion.yaml"""

from collections.abc import Sequence

from ..config import run_command
from ..training.diffusion_objective import TrainDiffusionConfig, train_diffusion


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; argv: None takes the process's own arguments."""
    run_command(TrainDiffusionConfig, train_diffusion, argv)
