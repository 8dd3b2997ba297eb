"""Shards of samples, written by one process or many in the memory there is, and their progress."""

import logging
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn
from zipfile import ZipFile, is_zipfile

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from tqdm import tqdm

from ..data.formats.samples import (
    MANIFEST_NAME,
    Shard,
    check_manifest,
    missing_shards,
    open_manifest,
    read_statistics,
    record_measured,
    write_shard,
)
from ..diffusion.denoiser import Estimate
from ..distributed import (
    Tally,
    broadcast_from_main,
    free_cached_memory,
    locked_for_run,
    on_main_process,
    this_process,
    wait_for_everyone,
)
from ..memory import is_out_of_memory
from ..stop_request import InterruptedWork, StopRequest, stop_requests
from .config import RunConfig
from .finiteness import warn_without_content
from .guidance_statistics import GuidanceStatistics, guidance_measured, joined
from .plan import MadeSamples, Plan, SampleBatch
from .sample_pictures import write_class_grid

MakeSamples = Callable[[SampleBatch], MadeSamples]
"""The samples of a batch."""

SHARDS, IMAGES, ENDED, STOPPED = "shards", "images", "ended", "stopped"
"""Names of the tally: shards and images made, processes at their end, and those that were asked to stop."""

_logger = logging.getLogger(__name__)


def make_shards(
    config: RunConfig, plan: Plan, manifest: Mapping[str, Any], make_samples: MakeSamples, evaluations: Counter[str]
) -> None:
    """Make the shards of `plan` that `config.out` lacks, shared by the processes, then a grid of the first samples.

    manifest: all that pixels depend on; a directory of samples with another is refused, and nothing is written.
    evaluations: the count that the networks of `make_samples` add to.

    Raises:
        ValueError: `config.out` holds other samples, or another run is writing there.
        InterruptedWork: a process was asked to stop, by SIGTERM or Ctrl-C; shards that were begun are left out.
    """
    process = this_process()
    if process.device.type == "cpu":
        torch.set_num_threads(config.cpu_threads)  # kernels sum in another order on another number of threads
    check_manifest(config.out, manifest)  # before anything is written
    with locked_for_run(config.out, work="sampling"), stop_requests() as stop:
        missing = missing_shards(config.out, num_samples=plan.num_samples, shard_size=plan.shard_size)
        wait_for_everyone()  # all have listed before any writes
        kernels = environment(config, process.device) if missing else None
        on_main_process(lambda: open_manifest(config.out, manifest, environment=kernels))
        evaluations.subtract(evaluations.copy())  # those of an earlier run with the same networks
        tally, total, is_main = Tally(), sum(len(plan.ids(n)) for n in missing), process.is_main
        bar = Progress(tally, evaluations, total, stop=stop, name=config.out.name, is_shown=is_main)
        with closing(bar) as progress:
            with suppress(InterruptedWork):
                _write_shards(config, plan, missing[process.rank :: process.world_size], make_samples, progress)
            progress.wait_for_all(process.world_size)  # a collective would give up after minutes
            if broadcast_from_main(tally.total(STOPPED)):
                written, all_shards = tally.total(SHARDS) - len(missing), plan.num_shards
                text = f"stopped: {config.out} has {all_shards + written} of {all_shards} shards; run it again to go on"
                raise InterruptedWork(text if is_main else "")
            if is_main:
                progress.report()
                _record_measured(config.out)
                write_class_grid(config.out / "grid.png", config.out)


def _write_shards(
    config: RunConfig, plan: Plan, shards: Iterable[int], make_samples: MakeSamples, progress: "Progress"
) -> None:
    """Make and write these shards, in batches of at most `config.batch_size` images."""
    size, warned, is_measured = config.batch_size, False, not _begun_unmeasured(config.out)
    for n in shards:
        try:
            images, statistics, size = _made(plan, plan.ids(n), size, make_samples, progress)
        except ValueError:  # samples that are not finite; other settings may take a directory without shards
            if this_process().world_size == 1 and not any(config.out.glob("shard-*.npz")):
                (config.out / MANIFEST_NAME).unlink(missing_ok=True)
            raise
        warned = warned or warn_without_content(images, name=str(config.out))
        labels = np.array([plan.label(i) for i in plan.ids(n)])
        pixels = rearrange(images, "n c h w -> n h w c").numpy()
        write_shard(config.out, n, Shard(pixels, labels, np.array(plan.ids(n)), statistics if is_measured else {}))
        progress.written()


def _begun_unmeasured(directory: Path) -> bool:
    """True where a shard without statistics is there: those of the other shards alone would be of no use."""
    first = next(filter(is_zipfile, sorted(directory.glob("shard-*.npz"))), None)
    if first is None:
        return False
    with ZipFile(first) as archive:
        return "nats.npy" not in archive.namelist()


def _record_measured(directory: Path) -> None:
    """Add to the manifest what was measured of guidance, and print the nats."""
    if (measured := guidance_measured(read_statistics(directory))) is None:
        return
    record_measured(directory, measured)
    print(f"guidance spent {measured['nats']:.3g} nats a sample", file=sys.stderr)


def _made(
    plan: Plan, ids: range, size: int, make_samples: MakeSamples, progress: "Progress"
) -> tuple[Tensor, dict[str, np.ndarray], int]:
    """Images of the ids on the CPU, their statistics, and the batch size that fitted: `size`, or less where memory ran
    out.

    Each sample has its own noise, so a batch can be made again in two halves.
    """
    made, statistics = list[Tensor](), list[GuidanceStatistics | None]()
    device = this_process().device
    while ids:
        try:
            samples = make_samples(plan.batch(ids[:size], device=device, on_step=progress.step))
            made.append(samples.images.cpu())
            statistics.append(samples.statistics)
        except (RuntimeError, MemoryError) as error:
            if min(size, len(ids)) == 1 or not is_out_of_memory(error):
                raise
        else:
            progress.made(len(made[-1]))
            ids = ids[size:]
            continue
        size = -(-min(size, len(ids)) // 2)
        free_cached_memory()  # here, where the error no longer holds on to what failed
        _logger.warning("out of memory: from here on %d images at a time", size)
    return torch.cat(made), joined(statistics), size


def environment(config: RunConfig, device: torch.device) -> dict[str, Any]:
    """Record of what floating-point kernels depend on; it moves pixels by a grey level at most and is not compared."""
    on_gpu = device.type == "cuda"
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "numpy", "accelerate")},
        "device": torch.cuda.get_device_name(device) if on_gpu else f"{device.type}, {platform.machine()}",
        "kernels": None if on_gpu else torch.backends.cpu.get_cpu_capability(),
        "cpu_threads": None if on_gpu else config.cpu_threads,
        "batch_size": config.batch_size,
        "compile": config.compile,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "tf32_convolutions": torch.backends.cudnn.allow_tf32 if on_gpu else None,
        "tf32_matrix_products": torch.backends.cuda.matmul.allow_tf32 if on_gpu else None,
    }


class Progress:
    """A bar over the images of all processes, shown by one of them, a line of sums at the end, and a stop for all."""

    def __init__(
        self, tally: Tally, evaluations: Counter[str], total: int, *, stop: StopRequest, name: str, is_shown: bool
    ) -> None:
        """evaluations: images evaluated by this process's networks, counted by them. total: images of all processes."""
        self._tally, self._evaluations, self._begin = tally, evaluations, time.monotonic()
        self._stop, self._looked_at = stop, self._begin
        # Every image costs the same, so the mean rate since the beginning predicts best how long it will take.
        self._bar: tqdm[NoReturn] = tqdm(total=total, unit="img", desc=name, disable=not is_shown, smoothing=0)

    def close(self) -> None:
        """Close the bar."""
        self._bar.close()

    def step(self, k: int, x: Tensor, estimate: Estimate) -> None:
        """Show the steps left, as an `OnStep`: a batch can take minutes.

        Raises:
            InterruptedWork: this process or another one was asked to stop.
        """
        if self._stop.requested:
            self._tally.add(STOPPED, 1)
            raise InterruptedWork
        if time.monotonic() - self._looked_at > 1:  # asking the other processes takes a while
            self._looked_at = time.monotonic()
            if self._tally.total(STOPPED):
                raise InterruptedWork
        if not self._bar.disable and time.time() - self._bar.last_print_t > 1:
            self._bar.set_postfix(steps_left=k, refresh=False)
            self._count()
            self._bar.refresh()

    def made(self, images: int) -> None:
        """Add images made by this process."""
        self._tally.add(IMAGES, images)
        self._count()

    def written(self) -> None:
        """Add a shard written by this process."""
        self._tally.add(SHARDS, 1)

    def wait_for_all(self, processes: int) -> None:
        """Add this process's evaluations, and return once all processes have come here, showing their progress."""
        for network, count in self._evaluations.items():
            self._tally.add(network, count)
        self._tally.add(ENDED, 1)
        while self._tally.total(ENDED) < processes:
            if self._stop.requested:
                self._tally.add(STOPPED, 1)
            time.sleep(0.1)
            self._count()

    def _count(self) -> None:
        if not self._bar.disable:
            self._bar.update(self._tally.total(IMAGES) - self._bar.n)

    def report(self) -> None:
        """Print the sums and the rate, once every process has added its evaluations to the tally."""
        images, seconds = self._tally.total(IMAGES), time.monotonic() - self._begin
        self._count()
        self.close()
        if images:
            each = " and ".join(f"{self._tally.total(network) / images:.4g} {network}" for network in self._evaluations)
            rate = f"{images} images in {seconds:.1f} s, {images / seconds:.3g} images/s"
            print(f"{rate}; {each} evaluations an image", file=sys.stderr)
