"""The cost of a training before it starts: parameters, memory, speed and duration, measured and printed."""

import math
import shutil
import time
from datetime import timedelta
from itertools import chain
from typing import NamedTuple

import torch

from ..data.batches import Batch
from ..data.summary import repetitions
from ..distributed import reduced
from ..stop_request import StopRequest
from .capacity import bytes_per_image, loss_of_first_image
from .frozen_parts import trained_parameters
from .run import TrainingRun, TrainState
from .setup import set_up
from .step import accumulate, backward, launch, settle

MEASURED_SECONDS = 15.0
"""Duration of the measurement, which takes at least two micro-batches."""


PUBLISHED = {
    "diffusion": {
        32: ("improved DDPM's CIFAR-10", 52.5, 128, 500_000),
        64: ("ADM's ImageNet 64", 296, 2048, 540_000),
        128: ("ADM's ImageNet 128", 422, 256, 4_360_000),
        256: ("ADM's ImageNet 256", 554, 256, 1_980_000),
        512: ("ADM's ImageNet 512", 559, 256, 1_940_000),
    },
    "classifier": {
        64: ("ADM's ImageNet 64 classifier", 65, 1024, 300_000),
        128: ("ADM's ImageNet 128 classifier", 43, 256, 300_000),
        256: ("ADM's ImageNet 256 classifier", 54, 256, 500_000),
        512: ("ADM's ImageNet 512 classifier", 54, 256, 500_000),
    },
    "upsampler": {
        256: ("ADM's upsampler 64 to 256", 312, 256, 500_000),
        512: ("ADM's upsampler 128 to 512", 309, 256, 1_050_000),
    },
}
"""Published trainings (ADM tables 11 to 13, improved DDPM appendix A) by kind and image size, pixels: name, millions of
parameters, batch, iterations."""


class Speed(NamedTuple):
    seconds_per_iteration: float
    waiting: float
    """Share of the time spent waiting for images, 0..1."""
    measured_seconds: float


def estimate_cost(run: TrainingRun) -> None:
    """Print the cost of `fit` with the same run, on the main process. Nothing is written."""
    state = set_up(run, leave_damaged=True)
    run.network.train()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()  # the search for the batch that fits tried more
    from torch.utils.flop_counter import FlopCounterMode  # here, because it imports triton

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        loss_of_first_image(run, state.process.device)
    flops, activations, speed = counter.get_total_flops(), bytes_per_image(state), _measured(state)
    if state.process.is_main:
        rows = _size_rows(state, flops, activations) | _time_rows(state, speed)
        print("\n".join(f"{name:12} {text}" for name, text in rows.items()))
        print("Nothing was written. Without --dry_run this training begins.")


def _measured(state: TrainState) -> Speed:
    """The speed of an iteration: its micro-batches, the last of them with the optimiser's work."""
    stream = chain.from_iterable(state.micro_batches())
    _update(state, next(stream))  # kernels and workers warm up
    first = next(stream)
    begin = time.perf_counter()
    _update(state, first)
    with_update = _seconds_since(begin)
    # The same count on every process, since processes that share a network compute together.
    count = max(2, round(MEASURED_SECONDS / _mean_over_processes(with_update)))
    begin, waited = time.perf_counter(), 0.0
    for _ in range(count):
        waits = time.perf_counter()
        batch = next(stream)
        waited += time.perf_counter() - waits
        backward(state, batch, synced=False)
    elapsed = _seconds_since(begin)
    state.optimizer.zero_grad()
    mean = elapsed / count
    seconds = _mean_over_processes((state.num_micro_batches - 1) * mean + max(with_update, mean))
    return Speed(seconds, waited / elapsed, elapsed)


def _update(state: TrainState, micro_batch: Batch) -> None:
    stop = StopRequest()
    launch(state, accumulate(state, [micro_batch], stop), stop)
    settle(state)


def _mean_over_processes(number: float) -> float:
    return float(reduced(torch.tensor(number), "mean"))


def _seconds_since(begin: float) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def _size_rows(state: TrainState, flops: int, activations: int) -> dict[str, str]:
    """Rows on network, batch and memory."""
    run, network, config = state.run, state.run.network, state.run.config
    weights = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    parameters = sum(parameter.numel() for parameter in network.parameters())
    trained = trained_parameters(network)
    count, moment = sum(map(torch.numel, trained)), sum(one.numel() * one.element_size() for one in trained)
    share = f", of which {count / 1e6:.3g} M are trained" if count < parameters else ""
    processes = _count(state.process.world_size, "process", "processes")
    micro_batches = _count(state.num_micro_batches, "micro-batch", "micro-batches")
    kept = (1 + len(config.averages)) * weights + 3 * moment
    peak = f"; measured peak {_bytes(torch.cuda.max_memory_allocated())}" if torch.cuda.is_available() else ""
    return {
        "network": f"{parameters / 1e6:.3g} M parameters{share}, {flops / 1e9:.3g} GFLOP forward per image",
        "batch": f"{config.batch.size} images an iteration = {processes} x {micro_batches} of at most "
        f"{state.micro_size}",
        "memory": f"{_bytes(kept)} of weights, gradients, moments and averages; activations {_bytes(activations)} an "
        f"image, {_bytes(activations * state.micro_size)} a micro-batch{peak}",
        "checkpoints": _checkpoint_row(run, weights, moment),
    }


def _checkpoint_row(run: TrainingRun, weights: int, moment: int) -> str:
    """The disk that checkpoints and snapshots take. weights: bytes of the network's; moment: of one of Adam's two."""
    config, directory = run.config, run.directory.absolute()
    checkpoint = (1 + len(config.averages)) * weights + 2 * moment
    snapshot = len(config.ema_widths) * weights // 2  # in float16
    milestones, snapshots = (
        config.total_iterations // every if every else 0
        for every in (config.keep_every_iterations, config.snapshot_every_iterations)
    )
    count = config.keep_checkpoints + milestones
    free = shutil.disk_usage(next(path for path in [directory, *directory.parents] if path.exists())).free
    # A new checkpoint is written before an old one is deleted.
    is_enough = (count + 1) * checkpoint + snapshots * snapshot < free
    kept = f"at most {count} kept" + (f", and {snapshots} snapshots of {_bytes(snapshot)}" if snapshots else "")
    return f"{_bytes(checkpoint)} each, {kept}, {_bytes(free)} free on their disk{'' if is_enough else ': TOO LITTLE'}"


def _time_rows(state: TrainState, speed: Speed) -> dict[str, str]:
    """Rows on speed, budget, duration and the published training to compare with."""
    run, iterations, batch = state.run, state.run.config.total_iterations, state.run.config.batch.size
    images, seconds = iterations * batch, speed.seconds_per_iteration
    remaining = max(0, iterations - state.start_iteration)
    rows = {
        "speed": f"{batch / seconds:.4g} images/s, {seconds:.3g} s an iteration, measured over "
        f"{speed.measured_seconds:.0f} s, {speed.waiting:.0%} of them waiting for images",
        "budget": f"{iterations:,} iterations = {images:,} images = {images / len(run.batches.images):.3g} epochs",
        "time": f"{timedelta(seconds=round(remaining * seconds))} for the {remaining:,} iterations to go, without "
        f"checkpoints and previews",
    }
    if run.batches.balanced:
        rows["classes"] = repetitions(run.batches.images, images).removeprefix("classes are ")
    if run.kind in PUBLISHED:
        nearest = min(PUBLISHED[run.kind], key=lambda size: abs(math.log(size / run.batches.images.image_size)))
        name, parameters, their_batch, their_iterations = PUBLISHED[run.kind][nearest]
        seen = their_batch * their_iterations
        rows["compares to"] = (
            f"{name}: {parameters:g} M parameters, {their_iterations:,} iterations of {their_batch} = {seen:,} images; "
            f"this budget is {images / seen:.2g} of them"
        )
    return rows


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
