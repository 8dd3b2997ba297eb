"""A sampler of one's own: python examples/own_sampler.py RUN grid.png"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from guided_diffusion import DiffusionChain, SamplerConfig, SeededNoise, load_diffusion
from guided_diffusion.data.pictures import write_png
from guided_diffusion.diffusion.chain import eps_from_x0, x0_from_eps
from guided_diffusion.diffusion.denoiser import Denoiser
from guided_diffusion.diffusion.images import grid, to_uint8


@torch.no_grad()
def plms(denoiser: Denoiser, chain: DiffusionChain, x_T: Tensor) -> Tensor:
    """x_0 (B, C, H, W) by second-order linear multi-steps (PNDM, 2202.09778), one evaluation a step."""
    x_t, eps_before = x_T, None
    for k in reversed(range(len(chain))):
        step = chain.at(k, like=x_t)
        eps = eps_from_x0(x_t, denoiser(x_t, step).x0, step)
        slope = eps if eps_before is None else 1.5 * eps - 0.5 * eps_before
        x_t = step.alpha_bar_prev**0.5 * x0_from_eps(x_t, slope, step) + (1 - step.alpha_bar_prev) ** 0.5 * slope
        eps_before = eps
    return x_t


def main(diffusion: Path, out: Path, *, steps: int = 10, num_samples: int = 16) -> None:
    """Draw samples; any guidance of `examples/` fits around the denoiser."""
    model = load_diffusion(diffusion)
    chain = SamplerConfig(steps=steps).levels(model.config.chain)
    x_T = SeededNoise(0, range(num_samples))(torch.empty(num_samples, *model.image_shape))
    write_png(out, grid(to_uint8(plms(model.denoiser(None), chain, x_T)), columns=4))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
