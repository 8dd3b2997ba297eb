"""Guide a diffusion model by a classifier: python examples/guide_a_model.py RUN CLASSIFIER grid.png

RUN and CLASSIFIER are run directories, such as runs/demo/diffusion and runs/demo/classifier. Each row of the grid is a
class, its left half without guidance.
"""

import sys
from pathlib import Path

import torch

from classifiers.trained_model import load_classifier
from guided_diffusion import SamplerConfig, SeededNoise, classifier_score, ddim, load_diffusion, tilted
from guided_diffusion.data.pictures import write_png
from guided_diffusion.diffusion.images import grid, to_uint8

COLUMNS = 8
"""Images of each class, on each side of the grid."""


def main(diffusion: Path, classifier: Path, out: Path, *, scale: float = 4.0, steps: int = 25) -> None:
    """Sample every class with and without guidance, from the same noise."""
    model, judge = load_diffusion(diffusion), load_classifier(classifier)
    y = torch.arange(len(judge.class_names)).repeat_interleave(COLUMNS)
    chain = SamplerConfig(steps=steps).levels(model.config.chain)
    noise = SeededNoise(0, range(len(y)))
    x_T = noise(torch.empty(len(y), *model.image_shape))

    denoiser = model.denoiser(y)
    term = classifier_score(judge.log_prob, y, scale)
    unguided = ddim(denoiser, chain, x_T, noise)
    guided = ddim(tilted(denoiser, term), chain, x_T, noise)  # ddim is the same: guidance changes its denoiser

    rows = torch.cat([images.unflatten(0, (-1, COLUMNS)) for images in (unguided, guided)], dim=1)
    write_png(out, grid(to_uint8(rows.flatten(0, 1)), columns=2 * COLUMNS))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
