"""Accuracy of the extrapolated Fréchet distance and the bootstrap interval, on Gaussians of known distance.

python benchmarks/confidence.py [--dimensions 64]

Samples of a Gaussian 1.2 times as wide as the real one, which is known exactly, and a little beside it. For each number
of samples, averaged over sets of them:

  bias      of the distance
  left      of that bias in the extrapolation, where there are samples enough for one
  spread    standard deviation of the distance between sets
  bootstrap the standard error that the bootstrap finds within a set, as a multiple of the spread
"""

import statistics
from dataclasses import dataclass

import torch
from torch import Tensor

from guided_diffusion.config import run_command
from guided_diffusion.evaluation.metrics.confidence import bootstrap_frechet_distance, extrapolated_frechet_distance
from guided_diffusion.evaluation.metrics.frechet import frechet_distance
from guided_diffusion.evaluation.statistics import Gaussian, gaussian, moments

SCALE, SHIFT = 1.2, 0.1
"""Of the samples, in every dimension; the real Gaussian has 1 and 0."""


@dataclass(frozen=True, kw_only=True)
class ConfidenceBenchmark:
    """Prints a row for each number of samples."""

    dimensions: int = 64
    """Of the features."""
    samples_per_dimension: tuple[int, ...] = (2, 5, 10, 25, 50)
    """Numbers of samples for each."""
    sets: int = 100
    """Of samples, of each number."""
    resampled_sets: int = 25
    """Of these, for the bootstrap."""
    resamples: int = 40
    """Of each of them."""


def simulate(config: ConfidenceBenchmark) -> None:
    """Prints the table."""
    real = Gaussian(torch.zeros(config.dimensions).double(), torch.eye(config.dimensions).double())
    truth = config.dimensions * ((SCALE - 1) ** 2 + SHIFT**2)
    print(f"{config.dimensions} dimensions, distance {truth:.4g}")
    print(f"{'samples':>8} {'for each':>8} {'bias':>8} {'left':>8} {'spread':>8} {'bootstrap':>9}")
    for each in config.samples_per_dimension:
        count = each * config.dimensions
        sets = [drawn(count, config.dimensions, seed=seed) for seed in range(config.sets)]
        found = [distance(one, real) for one in sets]
        spread = statistics.stdev(found)
        errors = [
            bootstrap_frechet_distance(one, real, resamples=config.resamples).standard_error
            for one in sets[: config.resampled_sets]
        ]
        print(
            f"{count:8d} {each:8d} {statistics.mean(found) - truth:8.3f} {left_over(sets, real, truth):>8} "
            f"{spread:8.4f} {statistics.mean(errors) / spread:9.2f}"
        )


def drawn(count: int, dimensions: int, *, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return SHIFT + SCALE * torch.randn(count, dimensions, dtype=torch.float64, generator=rng)


def distance(features: Tensor, real: Gaussian) -> float:
    found = gaussian(moments(features))
    return frechet_distance(found.mean, found.cov, real.mean, real.cov)


def left_over(sets: list[Tensor], real: Gaussian, truth: float) -> str:
    count, dimensions = sets[0].shape
    if count < 4 * (dimensions + 1):
        return "-"
    return f"{statistics.mean(extrapolated_frechet_distance(one, real).distance for one in sets) - truth:.3f}"


if __name__ == "__main__":
    run_command(ConfidenceBenchmark, simulate)
