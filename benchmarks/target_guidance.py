"""Guidance by a regression and by attributes: values that samples attain beside those asked for.

OMP_NUM_THREADS=1 python benchmarks/target_guidance.py --demo runs/demo

The unconditional model of scripts/demo.py, guided by the runs of docs/training.md's section "Regression and
attributes". Slant and ink are measured as in examples/digit_table.py, odd digits and sevens by the demo's judge.
"""

import runpy
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from classifiers.trained_model import load_classifier
from guided_diffusion import GuidedDiffusion
from guided_diffusion.config import run_command
from guided_diffusion.diffusion.images import from_uint8
from guided_diffusion.guidance.config import GuidanceConfig

TABLE = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "digit_table.py"))


@dataclass(frozen=True, kw_only=True)
class TargetGuidanceBenchmark:
    """Prints a table for each of the two guides."""

    demo: Path
    """Directory of scripts/demo.py."""
    slant: Path = Path("runs/slant")
    """Run of the regression."""
    attributes: Path = Path("runs/attributes")
    """Run of the attributes thick and odd."""
    samples: int = 200
    """Samples of each setting."""
    scales: tuple[float, ...] = (1.0, 2.0, 4.0)
    """Guidance scales s."""


def main(config: TargetGuidanceBenchmark) -> None:
    """Prints the tables."""
    model, judge = GuidedDiffusion.load(config.demo / "diffusion", device="cpu"), load_classifier(config.demo / "judge")

    def measured(scale: float = 1.0, function: str | None = None, **options: Any) -> str:
        guidance = GuidanceConfig(
            function=function, function_options=options, function_scale=scale if function else None
        )
        images = model.sample(
            num_samples=config.samples, guidance=guidance, sampler="ddpm", steps=50, batch_size=config.samples
        )
        ink = images[..., 0] / 255
        slants = np.array([TABLE["slant"](one + 1e-9) for one in ink])  # a black image would have no mean
        x_0 = from_uint8(torch.from_numpy(images).permute(0, 3, 1, 2))
        digits = judge.log_prob(x_0, torch.zeros(len(x_0))).argmax(dim=1).numpy()
        shares = ((ink.mean(axis=(1, 2)) > TABLE["THICK"]).mean(), (digits % 2).mean(), (digits == 7).mean())
        return f"{slants.mean():.3f} | {slants.std():.3f} | " + " | ".join(f"{share:.1%}" for share in shares) + " |"

    print("| guide | s | slant | its sd | thick | odd | sevens |\n" + "| --- " * 7 + "|")
    print(f"| none | 0 | {measured()}")
    for target, scale in product((-0.2, 0.0, 0.2), config.scales):
        row = measured(scale, "regression", run=str(config.slant), target=target)
        print(f"| slant {target:g} | {scale:g} | {row}", flush=True)
    for thick, odd, scale in product((True, False), (True, False), config.scales):
        row = measured(scale, "attributes", run=str(config.attributes), wanted={"thick": thick, "odd": odd})
        print(f"| {'thick' if thick else 'thin'}, {'odd' if odd else 'even'} | {scale:g} | {row}", flush=True)


if __name__ == "__main__":
    run_command(TargetGuidanceBenchmark, main)
