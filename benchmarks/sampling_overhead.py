"""Cost of a link outside the networks, sampler by sampler.

python benchmarks/sampling_overhead.py

A denoiser that does nothing, at the size of a 64-pixel image, alone and guided by a term that does nothing either; a
small convolutional network on 8 x 8, with its own time and without. Langevin's samplers take one step a level.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from rounds import Spread, Table, shown
from torch import Tensor, nn

from guided_diffusion.config import run_command
from guided_diffusion.diffusion.denoiser import Denoiser, Estimate, NetworkDenoiser
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.diffusion.schedules import ChainConfig
from guided_diffusion.guidance import ScoreTerm
from guided_diffusion.samplers import SamplerConfig, SamplerName, make_sampler
from guided_diffusion.samplers.config import SAMPLERS


@dataclass(frozen=True, kw_only=True)
class OverheadBenchmark:
    """Prints a row for each sampler, in milliseconds a link."""

    steps: int = 50
    """Links of each trajectory."""
    repeats: int = 5
    """Trajectories of each; the median counts."""


class Timed:
    """A network that knows how long it has been at work."""

    def __init__(self, network: nn.Module) -> None:
        self.network, self.seconds = network, 0.0

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        started = time.perf_counter()
        output = self.network(x_t)
        self.seconds += time.perf_counter() - started
        return output


def main(config: OverheadBenchmark) -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    still = Estimate(x0=torch.zeros(1, 3, 64, 64), log_var=-5.0)
    network = Timed(nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 1, 3, padding=1)))
    small = NetworkDenoiser(network, "eps", "large")
    rows: list[list[str]] = []
    for name in get_args(SamplerName):
        columns = (
            _median(name, config, lambda x_t, step: still, (3, 64, 64)),
            _median(name, config, lambda x_t, step: still, (3, 64, 64), guidance=lambda x_t, step: still.x0),
            _median(name, config, small, (1, 8, 8)),
            _median(name, config, small, (1, 8, 8), minus=lambda: network.seconds),
        )
        rows.append([name, *(shown(column) for column in columns)])
    titles = ("sampler", "no-op 3x64x64", "the same, guided", "network 1x8x8", "the same without the network")
    print(Table("Milliseconds a link outside the networks", titles, rows))


def _median(
    name: SamplerName,
    config: OverheadBenchmark,
    denoiser: Denoiser,
    shape: tuple[int, int, int],
    *,
    guidance: ScoreTerm | None = None,
    minus: Callable[[], float] = lambda: 0.0,
) -> Spread:
    """Milliseconds a link; minus: seconds so far that do not count."""
    options = {"langevin_steps": 1} if "langevin_steps" in SAMPLERS[name].options else {}
    sampler_config = SamplerConfig(name=name, steps=config.steps, **options)
    sampler, chain = make_sampler(sampler_config), sampler_config.levels(ChainConfig())
    x_T = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    seconds: list[float] = []
    for _ in range(config.repeats + 1):
        started, before = time.perf_counter(), minus()
        sampler(denoiser, chain, x_T, SeededNoise(0, [0]), guidance=guidance)
        seconds.append(time.perf_counter() - started - (minus() - before))
    return Spread.of([1000 * one / len(chain) for one in seconds[1:]])


if __name__ == "__main__":
    run_command(OverheadBenchmark, main)
