"""Sample, guided or not: python scripts/sample.py --diffusion RUN --classifier RUN --guidance.scale 4 --out DIR"""

from guided_diffusion.config import run_script
from guided_diffusion.generation.cascade import generate_upsampled
from guided_diffusion.generation.config import SampleConfig
from guided_diffusion.generation.run import generate, load_for_sampling
from guided_diffusion.guidance.guides import load_guide, load_other_guides


def main(config: SampleConfig) -> None:
    model = load_for_sampling(config)
    device = next(model.network.parameters()).device
    guide = load_guide(config.classifier, device=device)
    make = generate if config.upsampler is None else generate_upsampled
    make(config, model, guide, load_other_guides(config.guidance, device=device))


if __name__ == "__main__":
    run_script(SampleConfig, main)
