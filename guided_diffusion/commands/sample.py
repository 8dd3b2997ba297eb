"""Sample, guided or not: python scripts/sample.py --diffusion RUN --classifier RUN --guidance.scale 4 --out DIR"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from ..config import run_command
from ..data.formats.samples import check_manifest
from ..diffusion.model import load_upsampler
from ..distributed import this_process
from ..generation.cascade import UpsamplingRun, planned_base
from ..generation.config import RunConfig, SampleSetConfig
from ..generation.run import SamplingRun
from ..generation.sample_pictures import write_animation
from ..generation.shard_writer import make_shards
from ..samplers import SamplerConfig
from .upsample import UpsampleConfig, upsample


@dataclass(frozen=True, kw_only=True)
class SampleConfig(SampleSetConfig):
    """Sample from a diffusion model, guided by a classifier if one is named."""

    animate: int = 0
    """Number of first samples whose denoising OUT/animation.webp shows, x_t on the left, the estimate of x_0 on the
    right; with an upsampler, OUT/base has it. Can be asked for when all samples are there."""
    upsampler: Path | None = None
    """Run directory or checkpoint of an upsampler that enlarges the samples, with the same sampler settings: samples go
    to OUT/base, enlargements to OUT. For other settings: scripts/upsample.py."""
    conditioning_noise: float = UpsampleConfig.conditioning_noise
    """Noise rate added to samples before they are enlarged, by an upsampler that was trained on it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.animate and not 0 < self.animate <= self.num_samples:
            raise ValueError(f"animate is a number of the {self.num_samples} samples, 0 for none; got {self.animate}")
        if self.conditioning_noise and self.upsampler is None:
            raise ValueError(
                f"conditioning_noise {self.conditioning_noise:g} is for images to be enlarged; add --upsampler RUN or "
                f"leave it out"
            )


def sample(config: SampleConfig) -> None:
    """Make the samples that are missing from `config.out`, and a grid of the first.

    Sample i's noise and label follow from its id, so on a CPU its pixels are the same for any number of processes and
    after any interruption; a GPU's kernels may sum in another order each time.

    Raises:
        FileNotFoundError: no checkpoint, no file of labels, or no data to count them in.
        ValueError: networks that do not fit together, unknown labels or timesteps, or a directory that holds samples
            made with other settings; nothing is written then.
    """
    run = SamplingRun.open(config)
    if config.upsampler is None:
        write_samples(run, config)
    else:
        write_cascade(run, config)


def write_samples(run: SamplingRun, config: SampleConfig) -> None:
    """Write the samples of an opened run, as `sample`; `config.upsampler` is not used."""
    plan = run.plan(config)
    run.warn_of_strong_tilt()
    make_shards(config, plan, run.manifest(plan), run.sample, run.evaluations)
    if config.animate and this_process().is_main:
        write_animation(config.out / "animation.webp", run, plan, count=config.animate)


def write_cascade(run: SamplingRun, config: SampleConfig) -> None:
    """Write samples in `config.out`/base and their enlargements in `config.out`; what does not fit is refused first."""
    assert config.upsampler is not None
    base = replace(config, out=config.out / "base", upsampler=None, conditioning_noise=0.0)
    own = {"upsampler": config.upsampler, "base": base.out, "weights": None, "sampler": unguided(config.sampler)}
    own |= {"conditioning_noise": config.conditioning_noise}
    shared = {field.name: getattr(config, field.name) for field in fields(RunConfig)}
    upsampling = UpsampleConfig(**(shared | own))
    planned = UpsamplingRun(
        settings=upsampling,
        upsampler=load_upsampler(config.upsampler),
        base=planned_base(run, run.plan(base)),
        conditioning_noise=config.conditioning_noise,
    )
    check_manifest(config.out, planned.manifest(planned.plan(shard_size=config.shard_size)))
    del planned  # the base samples may need its memory
    write_samples(run, base)
    upsample(upsampling)


def unguided(sampler: SamplerConfig) -> SamplerConfig:
    """The same sampler without its options of guidance."""
    return replace(sampler, **dict.fromkeys(sampler.guidance_record()))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; argv: None takes the process's own arguments."""
    run_command(SampleConfig, sample, argv)
