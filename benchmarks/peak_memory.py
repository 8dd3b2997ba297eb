"""Peak memory of a forward pass, a training iteration and a guided run, each in a fresh process.

python benchmarks/peak_memory.py

MiB that the first call needs beyond the networks: activations and temporaries, in training also gradients and moments.
On a GPU, as its allocator counts them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import guided_step
import torch
import training_step
from forward import call
from memory import added_mib, in_fresh_process
from networks import Size, sampling_run, small, tiny, unet, write_models
from peers import PlainGuidance, diffusers_unet, plain, plain_iteration
from rounds import Missing, Table, attempt, shown

from guided_diffusion.config import run_command
from guided_diffusion.distributed import default_device


@dataclass(frozen=True, kw_only=True)
class MemoryBenchmark:
    """Prints a row for each piece of work and way, and the growth of ours."""

    batch: int = 8
    """Images at a time of the forward pass and the guided run."""
    training_batch: int = 4
    """Images of a training iteration."""
    steps: tuple[int, ...] = (2, 4, 8)
    """Steps of a guided run, over which memory should stay flat."""
    tiny: bool = False
    """Networks that take milliseconds, to try this benchmark."""


def forward(way: str, config: MemoryBenchmark) -> float:
    """MiB of a forward pass."""
    size, device = _size(config), default_device()
    with torch.no_grad(), TemporaryDirectory() as directory:
        if way == "ours by default":
            write_models(size, Path(directory))
            network = sampling_run(Path(directory), steps=2, batch=config.batch).model.network
        elif way == "plain way":
            network = plain(unet(size), device)
        else:
            network = diffusers_unet(size).to(device).eval()
        return added_mib(call(network, size, config.batch))


def training(way: str, config: MemoryBenchmark) -> float:
    """MiB of a training iteration."""
    size, device, batch = _size(config), default_device(), config.training_batch
    with TemporaryDirectory() as directory:
        if way == "ours by default":
            return added_mib(training_step.ours(size, Path(directory), batch).way)
        network = plain(unet(size), device) if way == "plain way" else diffusers_unet(size).to(device)
        return added_mib(plain_iteration(network.train(), size, batch))


def guided(way: str, config: MemoryBenchmark, steps: int = 2) -> float:
    """MiB of a guided run."""
    size = _size(config)
    with TemporaryDirectory() as name:
        directory = Path(name)
        write_models(size, directory)
        if way == "ours by default":
            return added_mib(guided_step.sampled(directory, config.batch, steps=steps))
        return added_mib(guided_step.plainly_sampled(PlainGuidance(size, default_device()), directory, config.batch))


WORK: Mapping[str, tuple[Callable[..., float], tuple[str, ...]]] = {
    "forward pass": (forward, ("ours by default", "plain way", "diffusers")),
    "training iteration": (training, ("ours by default", "plain way", "diffusers")),
    "guided run": (guided, ("ours by default", "plain way")),
}


def main(config: MemoryBenchmark) -> None:
    """Prints the tables."""
    rows: list[list[str]] = []
    for name, (function, ways) in WORK.items():
        for way in ways:
            rows.append([name, way, _mib(attempt(lambda f=function, way=way: in_fresh_process(f, way, config)))])
    note = f"MiB of the first call beyond the networks; batch {config.batch}, in training {config.training_batch}."
    print(Table("Peak memory", ("work", "way", "MiB"), rows, note))
    by_steps = [[str(steps), _mib(attempt(lambda s=steps: in_fresh_process(guided, "ours by default", config, s)))]
                for steps in config.steps]  # fmt: skip
    print(Table("Growth of a guided run's peak memory", ("steps", "MiB"), by_steps))


def _mib(found: object) -> str:
    return f"{shown(None)} ({found.reason})" if isinstance(found, Missing) else f"{found:,.0f}"


def _size(config: MemoryBenchmark) -> Size:
    return tiny() if config.tiny else small()


if __name__ == "__main__":
    run_command(MemoryBenchmark, main)
