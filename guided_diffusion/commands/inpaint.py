"""Make parts of images anew: python scripts/inpaint.py --diffusion RUN --data.path DIR --mask mask.png --out DIR"""

from collections.abc import Sequence

from ..config import run_command
from ..diffusion.model import load_diffusion
from ..distributed import this_process
from ..generation.inpainting import InpaintConfig, inpaint
from ..guidance.guides import load_guide, load_other_guides


def run(config: InpaintConfig) -> None:
    device = this_process().device
    model = load_diffusion(config.diffusion, weights=config.weights, device=device)
    guide = load_guide(config.classifier, device=device)
    inpaint(config, model, guide, load_other_guides(config.guidance, device=device))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; argv: None takes the process's own arguments."""
    run_command(InpaintConfig, run, argv)
