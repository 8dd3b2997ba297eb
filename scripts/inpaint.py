"""Make parts of images anew: python scripts/inpaint.py --diffusion RUN --data.path DIR --mask mask.png --out DIR"""

from guided_diffusion.config import run_script
from guided_diffusion.diffusion.model import load_diffusion
from guided_diffusion.generation.inpainting import InpaintConfig, inpaint
from guided_diffusion.generation.processes import this_device
from guided_diffusion.guidance.guides import load_guide, load_other_guides


def main(config: InpaintConfig) -> None:
    device = this_device()
    model = load_diffusion(config.diffusion, weights=config.weights, device=device)
    guide = load_guide(config.classifier, device=device)
    inpaint(config, model, guide, load_other_guides(config.guidance, device=device))


if __name__ == "__main__":
    run_script(InpaintConfig, main)
