"""A guidance of one's own, towards bright images: python examples/own_guidance.py RUN grid.png"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from guided_diffusion import SamplerConfig, SeededNoise, Step, ddim, load_diffusion, tilted
from guided_diffusion.data.pictures import write_png
from guided_diffusion.diffusion.denoiser import Denoiser
from guided_diffusion.diffusion.images import grid, to_uint8
from guided_diffusion.guidance import ScoreTerm


def towards_brightness(denoiser: Denoiser, brightness: float, scale: float) -> ScoreTerm:
    """The gradient of -scale (mean of x0 - brightness)^2 with respect to x_t, x0 being the denoiser's estimate."""

    def term(x_t: Tensor, step: Step) -> Tensor:
        with torch.enable_grad():
            x_in = x_t.detach().requires_grad_()
            error = denoiser(x_in, step).x0.mean(dim=(1, 2, 3)) - brightness
            return torch.autograd.grad(-scale * error.square().sum(), x_in)[0]

    return term


def main(diffusion: Path, out: Path, *, brightness: float = 0.5, scale: float = 100.0, num_samples: int = 16) -> None:
    """Draw samples whose pixels have about this mean, -1 black and 1 white."""
    model = load_diffusion(diffusion)
    chain = SamplerConfig(steps=25).levels(model.config.chain)
    noise = SeededNoise(0, range(num_samples))
    denoiser = model.denoiser(None)
    term = towards_brightness(denoiser, brightness, scale)
    images = ddim(tilted(denoiser, term), chain, noise(torch.empty(num_samples, *model.image_shape)), noise)
    write_png(out, grid(to_uint8(images), columns=4))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
