"""An iteration of training, beside diffusers' network and the plain way.

python benchmarks/training_step.py [--batch 4] [--rounds 5]

Ours by default is an iteration after `training.setup.set_up`, as scripts/train_diffusion.py makes it: noise of each
sample's own generator, hybrid loss, gradients, AdamW, averaged weights. The others draw noise for the whole
batch, take L_simple and torch's AdamW, and average no weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from comparison import Work, compared, counted, grown, offered
from forward import OTHER_SIZE
from networks import Size, iterate, small, tiny, training_state, unet
from peers import ddpm_unet, diffusers_unet, plain, plain_iteration, simple_loss
from torch import nn

from guided_diffusion.config import run_command
from guided_diffusion.distributed import default_device


@dataclass(frozen=True, kw_only=True)
class TrainingBenchmark:
    """Prints a table of ways, one of peaks, and the growth with the batch."""

    batch: int = 4
    """Images of an iteration."""
    rounds: int = 5
    """Rounds of the comparison; growth takes three."""
    batches: tuple[int, ...] = (1, 2, 4, 8)
    """Batches, for the growth with them."""
    tiny: bool = False
    """Networks that take milliseconds, to try this benchmark."""


def main(config: TrainingBenchmark) -> None:
    """Prints the tables."""
    size, device = (tiny if config.tiny else small)(), default_device()
    last = {"memory_format": torch.channels_last}
    peers: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], nn.Module]]] = {
        "plain way": (lambda: unet(size), lambda network: plain(network, device)),
        "diffusers": (lambda: diffusers_unet(size), lambda network: network.to(device)),
        "diffusers, channels_last": (lambda: diffusers_unet(size), lambda network: network.to(device, **last)),
        "denoising-diffusion-pytorch": (lambda: ddpm_unet(size), lambda network: network.to(device)),
    }
    with TemporaryDirectory() as directory:
        works = {"ours by default": offered(lambda: ours(size, Path(directory), config.batch))}
        works |= {name: offered(lambda pair=pair: peer(size, config.batch, *pair)) for name, pair in peers.items()}
        note = f"Batch {config.batch}, {size.network.image_size} pixels, float32 on a CPU. {OTHER_SIZE}"
        print(compared("Training iteration", works, rounds=config.rounds, device=device, note=note))
        by_batch = {batch: ours(size, Path(directory), batch).way for batch in config.batches}
        print(grown("Growth of a training iteration", {"batch": by_batch}))


def ours(size: Size, directory: Path, batch: int) -> Work:
    """An iteration of our loop on one batch, which is read once."""
    state = training_state(size, directory, batch=batch)
    stream = repeat(next(state.micro_batches()))
    return Work(lambda: iterate(state, stream, 1), batch, *cost(lambda: unet(size), size, batch))


def peer(size: Size, batch: int, build: Callable[[], nn.Module], placed: Callable[[nn.Module], nn.Module]) -> Work:
    """An iteration as most code writes it: noise, loss, gradients, AdamW."""
    return Work(plain_iteration(placed(build()).train(), size, batch), batch, *cost(build, size, batch))


def cost(build: Callable[[], nn.Module], size: Size, batch: int) -> tuple[float, int]:
    """Operations of a loss and its gradients, and parameters of the network."""
    return counted(build, lambda network: simple_loss(network, size, batch, device="meta").backward())


if __name__ == "__main__":
    run_command(TrainingBenchmark, main)
