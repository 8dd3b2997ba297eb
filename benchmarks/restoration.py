"""Measurements as guides: held-out digits, blurred or pooled, restored by each rule of guidance/measurement.py.

python benchmarks/restoration.py --demo runs/demo --out runs/restoration

Measurements are pictures of uint8 with noise of 0.05; "noise" is the one that the rule is given. residual: root mean
square of y - A x; 0.05 is that of the noise.
error: root mean square of x - x_0. right: share of digits that the demo's judge gives their true class. OUT holds the
measurements, and a picture for each operator: x_0, y, and a row for each rule.
"""

import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classifiers.trained_model import load_classifier
from guided_diffusion import GuidanceConfig, GuidedDiffusion
from guided_diffusion.config import run_command
from guided_diffusion.data.image_set import open_image_set
from guided_diffusion.data.pictures import write_grid, write_png
from guided_diffusion.data.subset import evenly_spaced
from guided_diffusion.diffusion.images import from_uint8, to_uint8
from guided_diffusion.guidance.measurement import average_pooling, gaussian_blur

NOISE = 0.05
OPERATORS = {"blur": (1.0, gaussian_blur(8, 1.0)), "pool": (2, average_pooling(8, 2))}
GUIDES: tuple[tuple[str, str, float, float], ...] = (
    ("dps", "x_t", NOISE, 0.0), ("dps", "x_t", NOISE, 0.3), ("dps", "x_t", NOISE, 1.0),
    ("likelihood", "x_t", NOISE, 1.0), ("likelihood", "x_t", 0.01, 1.0),
    ("pseudoinverse", "x_t", NOISE, 1.0), ("pseudoinverse", "x_t", NOISE, 4.0),
    ("pseudoinverse", "x_0", NOISE, 1.0), ("pseudoinverse", "x_0", NOISE, 4.0),
)  # fmt: skip
"""Rules, the variable of the gradient, the noise that they are given, and scales; 0 is unguided."""
SHOWN = 16


@dataclass(frozen=True, kw_only=True)
class RestorationBenchmark:
    """Prints a row for each operator, sampler and rule."""

    demo: Path
    """Directory of scripts/demo.py."""
    out: Path
    """Directory for measurements and pictures."""
    samples: int = 100
    """Digits of each row, evenly spaced in the held-out ones."""
    ddpm_steps: int = 50
    """Steps of ddpm."""
    ddim_steps: int = 25
    """Steps of ddim."""


def main(config: RestorationBenchmark) -> None:
    """Measure, restore and print."""
    digits = open_image_set(config.demo / "digits" / "test")
    chosen = evenly_spaced(len(digits), most=config.samples)
    x_0, y = from_uint8(digits.read(chosen)), digits.labels[list(chosen)]
    pipeline, judge = GuidedDiffusion.load(config.demo / "diffusion"), load_classifier(config.demo / "judge")
    print("| operator | sampler | rule | gradient | noise | s | residual | error | right |\n" + "| --- " * 9 + "|")
    for name, (value, operator) in OPERATORS.items():
        noise = NOISE * torch.randn(operator(x_0).shape, generator=torch.Generator().manual_seed(0))
        measured = to_uint8(operator(x_0) + noise)
        write_measured(config.out / name, measured)
        shown = [to_uint8(x_0[:SHOWN]), measured[:SHOWN].repeat_interleave(8 // measured.shape[-1], dim=2)
                 .repeat_interleave(8 // measured.shape[-1], dim=3)]  # fmt: skip
        samplers: dict[Any, int] = {"ddpm": config.ddpm_steps, "ddim": config.ddim_steps}
        for sampler, (rule, gradient, told, scale) in itertools.product(samplers, GUIDES):
            options = {name: value, "images": str(config.out / name), "noise": told}
            guidance = GuidanceConfig(
                function="measurement", function_options=options | {"rule": rule, "gradient": gradient},
                function_scale=scale,
            )  # fmt: skip
            made = pipeline.sample(
                num_samples=len(x_0), sampler=sampler, steps=samplers[sampler], guidance=guidance, batch_size=len(x_0)
            )
            x = torch.from_numpy(made).permute(0, 3, 1, 2)
            shown.append(x[:SHOWN])
            numbers = measures(from_uint8(x), x_0, operator(from_uint8(x)) - from_uint8(measured))
            right = judge.log_prob(from_uint8(x), torch.zeros(len(x))).argmax(dim=1) == y
            row = [name, f"{sampler} {samplers[sampler]}", rule, gradient, f"{told:g}", f"{scale:g}", *numbers]
            print(f"| {' | '.join([*row, f'{right.float().mean():.2f}'])} |", flush=True)
        write_grid(config.out / f"{name}.png", torch.cat(shown), columns=min(SHOWN, len(x_0)))


def write_measured(folder: Path, images: Tensor) -> None:
    """Write images (N, C, M, M) uint8 as pictures of their own size, in a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        write_png(folder / f"{i:04d}.png", image, enlarge=False)


def measures(x: Tensor, x_0: Tensor, residual: Tensor) -> list[str]:
    """Root mean squares of the residual and of the error."""
    return [f"{values.square().mean().sqrt():.3f}" for values in (residual, x - x_0)]


if __name__ == "__main__":
    run_command(RestorationBenchmark, main)
