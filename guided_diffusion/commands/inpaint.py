"""Make parts of images anew: python scripts/inpaint.py --diffusion RUN --data.path DIR --mask mask.png --out DIR"""

from collections.abc import Sequence

from ..config import run_command
from ..diffusion.model import load_diffusion
from ..distributed import this_process
from ..generation.inpainting import InpaintConfig, inpaint
from ..generation.run import load_run_classifier


def run(config: InpaintConfig) -> None:
    device = this_process().device
    model = load_diffusion(config.diffusion, weights=config.weights, device=device)
    inpaint(config, model, load_run_classifier(config, model))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; argv: None takes the process's own arguments."""
    run_command(InpaintConfig, run, argv)
