"""Guide by a function of your own: python examples/guide_by_a_function.py RUN grid.png

RUN is a run directory, such as runs/demo/diffusion. From the command line, in examples/:

python ../scripts/sample.py --diffusion RUN --out samples --guidance.function guide_by_a_function:bright \
    --guidance.function_options '{target: 0.3}'
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from guided_diffusion import GuidedDiffusion, at_estimate, through_network
from guided_diffusion.data.pictures import write_png
from guided_diffusion.diffusion.images import grid


def bright(x_0: Tensor, target: float = 0.0, precision: float = 400.0) -> Tensor:
    """log p(mean brightness is `target`) of each image, nats but for a constant: -1 is black and 1 white."""
    return -precision / 2 * (x_0.mean(dim=(1, 2, 3)) - target) ** 2


@through_network
def symmetric(x_0: Tensor, precision: float = 10.0) -> Tensor:
    """log p(the image is its own mirror image), evaluated through the network, which costs its backward pass."""
    return -precision / 2 * (x_0 - x_0.flip(3)).square().sum(dim=(1, 2, 3))


def main(diffusion: Path, out: Path, *, num_samples: int = 16, steps: int = 25) -> None:
    """A row of samples of each kind: dark, bright and symmetric, from the same noise."""
    guides = at_estimate(bright, target=-0.7), at_estimate(bright, target=0.2), symmetric
    pipelines = [GuidedDiffusion.load(diffusion, function=guide) for guide in guides]
    rows = [torch.from_numpy(one.sample(num_samples=num_samples, steps=steps)) for one in pipelines]
    write_png(out, grid(torch.cat(rows).permute(0, 3, 1, 2), columns=num_samples))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
