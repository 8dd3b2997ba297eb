"""A forward pass of the denoising network, beside other packages' networks and the machine's peaks.

python benchmarks/forward.py [--batch 8] [--rounds 7]

"ours by default" is the network of a sampling run; "as built" is the same network in float32 and NCHW, uncompiled.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from comparison import Work, compared, counted, grown, offered
from networks import Size, sampling_run, small, tiny, unet, write_models
from peers import ddpm_unet, diffusers_unet
from rounds import Missing, Way
from torch import nn

from guided_diffusion.config import run_command
from guided_diffusion.distributed import default_device

OTHER_SIZE = "denoising-diffusion-pytorch's network has another size: compare operations a second."


@dataclass(frozen=True, kw_only=True)
class ForwardBenchmark:
    """Prints a table of ways, one of peaks, and the growth with batch and resolution."""

    batch: int = 8
    """Images at a time."""
    rounds: int = 7
    """Rounds of the comparison; growth takes three."""
    sides: tuple[int, ...] = (32, 64, 128)
    """Sides of the images, pixels, for the growth with resolution."""
    batches: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Batches, for the growth with them."""
    tiny: bool = False
    """Networks that take milliseconds, to try this benchmark."""


@torch.no_grad()
def main(config: ForwardBenchmark) -> None:
    """Prints the tables."""
    size, device, last = sized(config), default_device(), {"memory_format": torch.channels_last}
    with TemporaryDirectory() as directory:
        write_models(size, Path(directory))
        ours = sampling_run(Path(directory), steps=25, batch=config.batch).model.network
    networks: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
        "ours by default": (lambda: unet(size), lambda: ours),
        "ours as built": (lambda: unet(size), lambda: unet(size).to(device)),
        "diffusers": (lambda: diffusers_unet(size), lambda: diffusers_unet(size).to(device)),
        "diffusers, channels_last": (
            lambda: diffusers_unet(size), lambda: diffusers_unet(size).to(device, **last)  # type: ignore[call-overload]
        ),
        "denoising-diffusion-pytorch": (lambda: ddpm_unet(size), lambda: ddpm_unet(size).to(device)),
    }  # fmt: skip
    works = {name: offered(lambda pair=pair: work(*pair, size, config.batch)) for name, pair in networks.items()}
    note = f"Batch {config.batch}, {size.network.image_size} pixels. {deviation(ours, size)} {OTHER_SIZE}"
    print(compared("Forward pass", works, rounds=config.rounds, device=device, note=note))
    by_batch = {batch: by_default(size, batch=batch) for batch in config.batches}
    by_side = {side: by_default(sized(config, side), batch=4) for side in config.sides}
    print(grown("Growth of a forward pass", {"batch": by_batch, "pixels a side, batch 4": by_side}))


def sized(config: ForwardBenchmark, image_size: int | None = None) -> Size:
    """The networks that are measured."""
    make = tiny if config.tiny else small
    return make() if image_size is None else make(image_size)


def work(built: Callable[[], nn.Module], network: Callable[[], nn.Module], size: Size, batch: int) -> Work:
    """A forward pass of `network`, its operations counted with the uncompiled one that `built` gives."""
    flops, parameters = counted(built, lambda on_meta: call(on_meta, size, batch, device="meta")())
    return Work(call(network().eval(), size, batch), batch, flops, parameters)


def call(network: nn.Module, size: Size, batch: int, *, device: torch.device | str | None = None) -> Way:
    """A forward pass on the same inputs as the others'."""
    x_t, t, y = size.inputs(batch, device or default_device())
    labels = (y,) if size.is_conditional else ()
    return lambda: network(x_t, t, *labels)


def by_default(size: Size, *, batch: int) -> Way | Missing:
    """A forward pass of ours by default."""
    with TemporaryDirectory() as directory:
        write_models(size, Path(directory))
        return call(sampling_run(Path(directory), steps=25, batch=batch).model.network, size, batch)


def deviation(ours: nn.Module, size: Size) -> str:
    """A sentence about the largest difference of our default's output from that of the network as built."""
    expected = call(unet(size).to(default_device()).eval(), size, 2)()
    difference = float((call(ours, size, 2)() - expected).abs().max())
    largest = float(expected.abs().max())
    return f"Ours by default differs from ours as built by {difference:.1e} at most, of outputs up to {largest:.2g}."


if __name__ == "__main__":
    run_command(ForwardBenchmark, main)
