"""Error of every sampler at few evaluations, with an exact denoiser and an exact classifier.

PYTHONPATH=tests python benchmarks/mixture_few_steps.py

A mixture of three Gaussians in 4 dimensions (tests/oracles/mixture.py) with its exact denoiser, guided by its exact
classifier at scale 1 to one component, in each sampler's own spacing of the linear chain. The error is the Fréchet
distance between the samples' moments and that component's; the last row is that of as many exact draws.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
from oracles.counting import Counted
from oracles.mixture import GaussianMixture, batch_noise, draws, three_blobs
from torch import Tensor

from guided_diffusion.config import run_command
from guided_diffusion.diffusion.schedules import ChainConfig, make_chain
from guided_diffusion.evaluation.metrics.frechet import frechet_distance
from guided_diffusion.guidance import classifier_score, within
from guided_diffusion.samplers import SamplerConfig, SamplerName, make_sampler

OPTIONS: Mapping[str, Mapping[str, Any]] = {"langevin": {"langevin_steps": 1, "snr": 0.7}}
"""Langevin's published hundred steps a level would leave it no second level."""


@dataclass(frozen=True, kw_only=True)
class FewStepsBenchmark:
    """Prints the error of every sampler at every number of evaluations."""

    evaluations: tuple[int, ...] = (5, 8, 10, 15, 25)
    """Calls of the denoiser, at most; as many of the classifier."""
    samples: int = 20_000
    """For each entry of the table."""
    component: int = 1
    """The one asked for, 0, 1 or 2."""
    sigma_max: float = math.inf
    """Guided only up to this noise level, which is then no longer Bayes' rule."""


def main(config: FewStepsBenchmark) -> None:
    """Prints a row for each sampler."""
    mixture = three_blobs(make_chain(ChainConfig()))
    print(f"{'evaluations':>20} " + " ".join(f"{count:>9}" for count in config.evaluations))
    for name in get_args(SamplerName):
        print(f"{name:>20} " + " ".join(_cell(name, count, mixture, config) for count in config.evaluations))
    y = torch.full((config.samples,), config.component)
    exact = mixture.draw(y, generator=torch.Generator().manual_seed(0))
    print(f"{'exact draws':>20} {_error(exact, mixture, config.component):9.2g}")


def _cell(name: SamplerName, evaluations: int, mixture: GaussianMixture, config: FewStepsBenchmark) -> str:
    steps = {"heun": (evaluations + 1) // 2, "predictor_corrector": evaluations // 2, "langevin": evaluations - 1}
    sampler = SamplerConfig(name=name, steps=steps.get(name, evaluations), **OPTIONS.get(name, {}))
    y = torch.full((config.samples,), config.component)
    denoiser = Counted(mixture.denoiser)
    term = within(classifier_score(mixture.log_prob, y, scale=1.0), 0.0, config.sigma_max)
    x_T, levels = draws(config.samples, 4, 1, 1, seed=1), sampler.levels(ChainConfig())
    x_0 = make_sampler(sampler)(denoiser, levels, x_T, batch_noise(2), guidance=term)
    if denoiser.calls > evaluations:
        raise AssertionError(f"{name} took {denoiser.calls} evaluations of {evaluations}")
    return f"{_error(x_0.flatten(1), mixture, config.component):9.2g}"


def _error(x_0: Tensor, mixture: GaussianMixture, component: int) -> float:
    return frechet_distance(x_0.mean(dim=0), x_0.mT.cov(), mixture.means[component], mixture.covariances[component])


if __name__ == "__main__":
    run_command(FewStepsBenchmark, main)
