"""Shards of samples, made by one process or many, in whatever memory there is, and resumable."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..data.formats.samples import Shard, check_manifest, missing_shards, open_manifest, write_shard
from ..data.pictures import write_png
from ..distributed import Tally, free_cached_memory, is_out_of_memory, this_process, wait_for_everyone
from ..guidance.network_counter import check_precision
from ..samplers import OnStep
from .class_grid import class_grid
from .config import RunConfig
from .manifest import environment
from .plan import Plan
from .progress import Progress

MakeImages = Callable[[range, OnStep], Tensor]
"""uint8 images (b, C, H, W) of consecutive ids in one batch; its sampler calls the function given after every step."""

SHARDS = "shards"

_logger = logging.getLogger(__name__)


def make_shards(
    config: RunConfig,
    plan: Plan,
    manifest: Mapping[str, Any],
    make_images: MakeImages,
    evaluations: Counter[str],
) -> None:
    """Make the shards of `plan` that `config.out` lacks, shared by the processes, then a grid of the first samples.

    manifest: all that pixels depend on. evaluations: those that `make_images` makes, counted by it.

    Raises:
        ValueError: a directory that holds samples made with other settings, or a precision that this machine has not;
            nothing is written then.
    """
    process = this_process()
    check_precision(config.precision, process.device)
    if process.device.type == "cpu":
        torch.set_num_threads(config.cpu_threads)  # kernels sum in another order on another number of threads
    check_manifest(config.out, manifest)  # every process, so that none waits for one that refused
    missing = missing_shards(config.out, num_samples=plan.num_samples, shard_size=plan.shard_size)
    wait_for_everyone()  # all have listed before any writes
    if process.is_main:
        config.out.mkdir(parents=True, exist_ok=True)
        open_manifest(config.out, manifest, environment=environment(config, process.device) if missing else None)
    wait_for_everyone()

    tally, total, size = Tally(), sum(len(plan.ids(n)) for n in missing), config.batch_size
    shown = {"total": total, "name": config.out.name, "evaluations": evaluations, "is_shown": process.is_main}
    with Progress(tally, **shown) as progress:
        for n in missing[process.rank :: process.world_size]:
            images, size = _made(plan.ids(n), size, make_images, progress)
            write_shard(config.out, n, _shard(images, plan, plan.ids(n)))
            tally.add(SHARDS, 1)
        progress.hand_in()
        progress.wait_for(SHARDS, len(missing))  # a collective would give up after minutes
        wait_for_everyone()
        if process.is_main:
            progress.report()
            write_png(config.out / "grid.png", class_grid(config.out))


def _made(ids: range, size: int, make_images: MakeImages, progress: Progress) -> tuple[Tensor, int]:
    """Images of the ids on the CPU, `size` at a time or as many as fit into memory, and how many that were.

    A sample's noise is its own, so that a batch may be made again in two halves.
    """
    made: list[Tensor] = []
    while ids:
        try:
            made.append(make_images(ids[:size], progress.step).cpu())
        except RuntimeError as error:
            if min(size, len(ids)) == 1 or not is_out_of_memory(error):
                raise
        else:
            progress.made(len(made[-1]))
            ids = ids[size:]
            continue
        size = -(-min(size, len(ids)) // 2)
        free_cached_memory()  # here, where the error no longer holds on to what failed
        _logger.warning("out of memory: from here on %d images at a time", size)
    return torch.cat(made), size


def _shard(images: Tensor, plan: Plan, ids: Sequence[int]) -> Shard:
    return Shard(
        images=rearrange(images, "n c h w -> n h w c").numpy(),
        labels=torch.tensor([plan.label(i) for i in ids]).numpy(),
        ids=torch.tensor(list(ids)).numpy(),
    )
