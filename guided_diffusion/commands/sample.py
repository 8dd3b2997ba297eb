"""Sample, guided or not: python scripts/sample.py --diffusion RUN --classifier RUN --guidance.scale 4 --out DIR"""

from dataclasses import dataclass, fields, replace
from functools import partial
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
from .upsample import UpsampleConfig, upsample


@dataclass(frozen=True, kw_only=True)
class SampleConfig(SampleSetConfig):
    """Sample from a diffusion model, guided by a classifier if one is named."""

    animate: int = 0
    """Number of first samples whose denoising OUT/animation.webp shows, x_t on the left, the estimate of x_0 on the
    right; of particles the first, which need not be the one kept. With an upsampler, OUT/base has it. Can be asked for
    when all samples are there."""
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
    after any interruption; a GPU's kernels may sum in another order each time. All that is refused is refused before
    anything is written.
    """
    write = write_samples if config.upsampler is None else write_cascade
    write(SamplingRun.open(config), config)


def write_samples(run: SamplingRun, config: SampleConfig) -> None:
    """Write the samples of an opened run, as `sample`; `config.upsampler` is not used."""
    plan = run.plan(config)
    run.log_warnings()
    run.prepare(plan, processes=this_process().world_size)
    sized = replace(config, batch_size=run.samples_at_a_time)
    make_shards(sized, plan, run.manifest(plan), run.sample, run.evaluations)
    if config.animate and this_process().is_main:
        write_animation(config.out / "animation.webp", run, plan, count=config.animate)


def write_cascade(run: SamplingRun, config: SampleConfig) -> None:
    """Write samples in `config.out`/base and their enlargements in `config.out`; what does not fit is refused first."""
    assert config.upsampler is not None
    base = replace(config, out=config.out / "base", upsampler=None, conditioning_noise=0.0)
    unguided = replace(config.sampler, **dict.fromkeys(config.sampler.guidance_record()))
    rate = config.conditioning_noise
    shared = {field.name: getattr(config, field.name) for field in fields(RunConfig)}
    shared["precision"] = run.settings.precision
    own = {"upsampler": config.upsampler, "base": base.out, "weights": None, "sampler": unguided}
    upsampling = UpsampleConfig(**(shared | own), conditioning_noise=rate)
    enlarged, upsampler = planned_base(run, run.plan(base)), load_upsampler(config.upsampler)
    planned = UpsamplingRun(settings=upsampling, upsampler=upsampler, base=enlarged, conditioning_noise=rate)
    check_manifest(config.out, planned.manifest(planned.plan(shard_size=config.shard_size)))
    del planned, upsampler  # the base samples may need its memory
    write_samples(run, base)
    upsample(upsampling)


main = partial(run_command, SampleConfig, sample)
