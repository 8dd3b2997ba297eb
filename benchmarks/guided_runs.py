"""Whole guided runs, from checkpoints to shards on disk, beside the plain way and diffusers' pipeline.

python benchmarks/guided_runs.py [--samples 4] [--steps 10]

Ours by default is scripts/sample.py without its start. The plain way makes the same images and writes none; diffusers'
`DDIMPipeline`, which has no classifier guidance, is beside an unguided run of ours.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from comparison import Work, compared, grown, offered, parameters
from guided_step import ours as guided_work
from guided_step import plainly_sampled
from networks import Size, small, tiny, write_models
from peers import PlainGuidance, diffusers_unet

from guided_diffusion.commands.sample import SampleConfig, sample
from guided_diffusion.config import run_command
from guided_diffusion.distributed import default_device
from guided_diffusion.guidance.config import GuidanceConfig
from guided_diffusion.samplers import SamplerConfig

_numbers = count()


@dataclass(frozen=True, kw_only=True)
class GuidedRunBenchmark:
    """Prints tables for a network of 64 pixels and for the demonstration's, and the growth with steps and samples."""

    samples: int = 4
    """Images of a run at 64 pixels."""
    steps: int = 10
    """Steps of DDIM at 64 pixels."""
    tiny_samples: int = 64
    """Images of a run at 8 pixels, in 25 steps."""
    rounds: int = 3
    """Rounds of each table."""
    tiny: bool = False
    """The demonstration's network alone, to try this benchmark."""


def main(config: GuidedRunBenchmark) -> None:
    """Prints the tables."""
    if not config.tiny:
        print(runs(small(), samples=config.samples, steps=config.steps, rounds=config.rounds))
    print(runs(tiny(), samples=config.tiny_samples, steps=25, rounds=config.rounds))
    with TemporaryDirectory() as name:
        directory = Path(name)
        write_models(tiny(), directory)
        by_steps = {steps: run(directory, samples=32, steps=steps) for steps in (5, 10, 20, 40)}
        by_samples = {samples: run(directory, samples=samples, steps=10) for samples in (16, 32, 64, 128)}
        growth = {"steps, 32 samples": by_steps, "samples, 10 steps": by_samples}
        print(grown("Growth of a guided run at 8 pixels", growth, rounds=config.rounds))


def runs(size: Size, *, samples: int, steps: int, rounds: int) -> str:
    """The table of a network."""
    with TemporaryDirectory() as name:
        directory = Path(name)
        write_models(size, directory)
        step = guided_work(size, directory, samples)
        ours = replace(step, images=samples, flops=step.flops / step.parts * steps, parts=1)
        works = {
            "ours by default": replace(ours, way=run(directory, samples=samples, steps=steps)),
            "plain way": offered(lambda: replace(ours, way=plainly(size, directory, samples, steps))),
            "ours by default, unguided": Work(
                run(directory, samples=samples, steps=steps, guided=False), samples, 0, ours.parameters
            ),
            "diffusers' DDIMPipeline, unguided": offered(lambda: pipeline(size, samples, steps)),
        }
        title, note = f"Guided run at {size.network.image_size} pixels", f"{samples} images, DDIM in {steps} steps."
        return compared(title, works, rounds=rounds, device=default_device(), note=note)


def run(directory: Path, *, samples: int, steps: int, guided: bool = True) -> Callable[[], None]:
    """A run into a fresh directory."""

    def whole() -> None:
        sample(
            SampleConfig(
                out=directory / f"samples{next(_numbers)}", diffusion=directory / "diffusion", num_samples=samples,
                classifier=directory / "classifier" if guided else None, cpu_threads=torch.get_num_threads(),
                guidance=GuidanceConfig(scale=1.0 if guided else None),
                sampler=SamplerConfig(name="ddim", steps=steps),
            )
        )  # fmt: skip

    return whole


def plainly(size: Size, directory: Path, samples: int, steps: int) -> Callable[[], object]:
    """The same images in the plain way."""
    return plainly_sampled(PlainGuidance(size, default_device()), directory, samples, steps=steps)


def pipeline(size: Size, samples: int, steps: int) -> Work:
    """diffusers' own sampling of as many images by its network of this size."""
    from diffusers import DDIMPipeline, DDIMScheduler

    network = diffusers_unet(size, out_channels=3).to(default_device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
    made = DDIMPipeline(network, DDIMScheduler())
    made.set_progress_bar_config(disable=True)
    way = lambda: made(batch_size=samples, num_inference_steps=steps, output_type="np")  # noqa: E731
    return Work(way, samples, 0, parameters(network))


if __name__ == "__main__":
    run_command(GuidedRunBenchmark, main)
