"""Train an upsampler: python scripts/train_upsampler.py --config configs/imagenet256/upsampler.yaml"""

from collections.abc import Sequence

from ..config import run_command
from ..training.upsampler_objective import TrainUpsamplerConfig, train_upsampler


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; argv: None takes the process's own arguments."""
    run_command(TrainUpsamplerConfig, train_upsampler, argv)
