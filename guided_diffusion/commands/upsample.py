"""Enlarge samples: python scripts/upsample.py --upsampler RUN --base runs/samples --out runs/enlarged"""

import logging
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

from torch import Tensor

from ..config import run_command
from ..data.config import refuse_among
from ..diffusion.images import from_uint8, to_uint8
from ..diffusion.model import load_upsampler
from ..distributed import on_main_process, this_process
from ..generation.cascade import UpsamplingRun, stored_base
from ..generation.config import RunConfig
from ..generation.half_precision import IMAGES
from ..generation.plan import MadeSamples, SampleBatch
from ..generation.run import compiled_for
from ..generation.shard_writer import make_shards
from ..models.precision import Precision, in_precision

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class UpsampleConfig(RunConfig):
    """Enlarge samples, or any images of the right size, by an upsampler."""

    upsampler: Path
    """Run directory or checkpoint of the upsampler."""
    base: Path
    """Images to enlarge: a directory of samples, an npz in the published layout (arr_0, labels in arr_1), or a folder
    of pictures, in class directories if there are classes."""
    conditioning_noise: float = 0.0
    """Noise rate added to images before they are enlarged, by an upsampler that was trained on it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in self.sampler.guidance_record().items():
            raise ValueError(f"sampler.{name} {value} is for guided samples, and enlarging is not guided; leave it out")


def upsample(config: UpsampleConfig) -> None:
    """Enlarge the images of `config.base` that are missing from `config.out`, and make a grid of the first.

    Image i's enlargement has i's label, and its noise follows from i alone: its pixels are the same for any number of
    processes and after any interruption. All that is refused is refused before anything is written.
    """
    from ..data.image_set import open_image_set  # with Pillow, which no help needs

    refuse_among(config.base, config.out)
    process, rate, evaluations = this_process(), config.conditioning_noise, Counter[str]()
    device = process.device
    upsampler = load_upsampler(config.upsampler, weights=config.weights, device=device)
    source = open_image_set(config.base)
    run = UpsamplingRun(settings=config, upsampler=upsampler, base=stored_base(source), conditioning_noise=rate)
    low_res = from_uint8(source.read(range(min(IMAGES, len(source)))).to(device))
    precision: Precision = on_main_process(lambda: run.precision(low_res, config.out))
    upsampler = in_precision(upsampler, precision, counter=evaluations)
    run = replace(run, settings=replace(config, precision=precision), upsampler=upsampler)
    if (warning := config.sampler.warning(run.chain)) is not None:
        _logger.warning("%s", warning)
    plan = run.plan(shard_size=config.shard_size)

    @lru_cache(maxsize=1)  # batches of one shard follow one another
    def base_images(first: int) -> Tensor:
        return source.read(range(first, min(first + plan.shard_size, plan.num_samples)))

    def enlarge(batch: SampleBatch) -> MadeSamples:
        ids = batch.ids
        first = ids.start // plan.shard_size * plan.shard_size
        pixels = base_images(first)[ids.start - first : ids.stop - first]
        return MadeSamples(to_uint8(run.x0(batch, from_uint8(pixels.to(device)))))

    compiled_for([upsampler], config, device, images=plan.num_samples * len(run.chain) / process.world_size)
    make_shards(config, plan, run.manifest(plan), enlarge, evaluations)


main = partial(run_command, UpsampleConfig, upsample)
