"""A guided step of DDIM: a forward pass of the U-Net, the classifier's gradient, the sampler's arithmetic.

python benchmarks/guided_step.py [--batch 8] [--rounds 5]

Ours by default samples a batch in two steps by a `SamplingRun`, as scripts/sample.py does, noise and conversion to
uint8 included; times are those of one step. The plain way has explicit softmax attention, computed again in the
backward pass, NCHW, and parameters with gradients. No peer guides by a classifier of noisy images; a forward pass of
diffusers' network is beside an unguided step of ours.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from comparison import Work, compared, counted, grown, offered, parameters
from forward import call
from networks import Size, first_batch, sampling_run, small, tiny, unet, write_models
from networks import classifier as noisy_classifier
from peers import PlainGuidance, diffusers_unet
from rounds import Way
from torch import Tensor, nn

from guided_diffusion.config import run_command
from guided_diffusion.distributed import default_device

STEPS = 2
"""The fewest that a stride of DDIM has."""


@dataclass(frozen=True, kw_only=True)
class GuidedStepBenchmark:
    """Prints a table of ways, one of peaks, and the growth with batch and steps."""

    batch: int = 8
    """Images at a time."""
    rounds: int = 5
    """Rounds of the comparison; growth takes three."""
    batches: tuple[int, ...] = (1, 2, 4, 8)
    """Batches, for the growth with them."""
    steps: tuple[int, ...] = (2, 4, 8)
    """Steps, for the growth with them, at a batch of 2."""
    tiny: bool = False
    """Networks that take milliseconds, to try this benchmark."""


def main(config: GuidedStepBenchmark) -> None:
    """Prints the tables."""
    size, device = (tiny if config.tiny else small)(), default_device()
    with TemporaryDirectory() as name:
        directory = Path(name)
        write_models(size, directory)
        works = {
            "ours by default": offered(lambda: ours(size, directory, config.batch)),
            "plain way": offered(lambda: in_the_plain_way(size, directory, config.batch)),
            "ours by default, unguided": offered(lambda: ours(size, directory, config.batch, guided=False)),
            "diffusers, unguided": offered(lambda: unguided(size, config.batch)),
        }
        note = f"Batch {config.batch}, {size.network.image_size} pixels. {deviation(size, directory)}"
        print(compared("Guided step", works, rounds=config.rounds, device=device, note=note))
        by_batch = {batch: sampled(directory, batch, steps=STEPS) for batch in config.batches}
        by_steps = {steps: sampled(directory, 2, steps=steps) for steps in config.steps}
        print(grown("Growth of a guided run", {"batch, 2 steps": by_batch, "steps, batch 2": by_steps}))


def sampled(directory: Path, batch: int, *, steps: int, guided: bool = True) -> Callable[[], Tensor]:
    """uint8 images of one batch by a sampling run."""
    run = sampling_run(directory, steps=steps, batch=batch, guided=guided)
    return lambda: run.sample(first_batch(run, batch))


def ours(size: Size, directory: Path, batch: int, *, guided: bool = True) -> Work:
    """A step of ours."""
    flops, count = counted(lambda: unet(size), lambda network: call(network, size, batch, device="meta")())
    if guided:
        more, of_classifier = counted(lambda: noisy_classifier(size), lambda network: _gradient(network, size, batch))
        flops, count = flops + more, count + of_classifier
    return Work(sampled(directory, batch, steps=STEPS, guided=guided), STEPS * batch, STEPS * flops, count, STEPS)


def in_the_plain_way(size: Size, directory: Path, batch: int) -> Work:
    """The same step in the plain way; its operations are taken for ours, though it repeats some."""
    same = ours(size, directory, batch)
    guidance = PlainGuidance(size, default_device())
    return replace(same, way=plainly_sampled(guidance, directory, batch))


def plainly_sampled(
    guidance: PlainGuidance, directory: Path, batch: int, *, steps: int = STEPS
) -> Callable[[], Tensor]:
    """uint8 images of the same batch, from the same noise at the same levels, in the plain way."""
    run = sampling_run(directory, steps=steps, batch=batch)
    levels = list(zip(run.chain.t.tolist(), run.chain.alpha_bar.tolist(), strict=True))[::-1]

    def sample() -> Tensor:
        samples = first_batch(run, batch)
        x_T = samples.noise(torch.empty(batch, *run.model.image_shape, device=run.device))
        return guidance.sample(x_T, samples.y, levels)

    return sample


def unguided(size: Size, batch: int) -> Work:
    """A forward pass of diffusers' network, without a sampler."""
    network = diffusers_unet(size).to(default_device(), memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    flops, _ = counted(lambda: diffusers_unet(size), lambda one: call(one, size, batch, device="meta")())
    forward: Way = torch.no_grad()(call(network, size, batch))
    return Work(forward, batch, flops, parameters(network))


def deviation(size: Size, directory: Path) -> str:
    """A sentence about the largest difference between our images and those of the plain way."""
    one = sampled(directory, 2, steps=STEPS)()
    other = plainly_sampled(PlainGuidance(size, default_device()), directory, 2)()
    differing, largest = int((one != other).sum()), int((one.int() - other.int()).abs().max())
    return f"After {STEPS} steps {differing} of {one.numel()} pixels differ from the plain way's, by {largest} at most."


def _gradient(network: nn.Module, size: Size, batch: int) -> None:
    x_t, t, _ = size.inputs(batch, "meta")
    network.requires_grad_(False)
    x_t.requires_grad_()
    torch.autograd.grad(network(x_t, t).log_softmax(dim=1)[:, 0].sum(), x_t)


if __name__ == "__main__":
    run_command(GuidedStepBenchmark, main)
