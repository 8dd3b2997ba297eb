"""Sample, guided or not: python scripts/sample.py --diffusion RUN --classifier RUN --guidance.scale 4 --out DIR"""

from collections.abc import Sequence

from ..config import run_command
from ..generation.cascade import generate_upsampled
from ..generation.config import SampleConfig
from ..generation.run import generate, load_for_sampling, load_run_classifier


def run(config: SampleConfig) -> None:
    model = load_for_sampling(config)
    make = generate if config.upsampler is None else generate_upsampled
    make(config, model, load_run_classifier(config, model))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; argv: None takes the process's own arguments."""
    run_command(SampleConfig, run, argv)
