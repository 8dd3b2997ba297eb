"""A training's cost before it is paid: parameters, memory, speed and time to the end, measured and printed."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..data.batches import Batch, EndlessBatches
from ..diffusion.noise import SeededNoise
from ..distributed import reduced
from .config import LoopConfig
from .memory import peak_bytes, training_bytes
from .objective import Objective, Observe
from .published import nearest_published
from .resume import Identity
from .setup import begun, bytes_per_image, first_batch
from .step import Training, backward, update
from .stop_request import StopRequest

MEASURED_SECONDS = 15.0
"""How long micro-batches are timed, at least two of them."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What was measured."""

    seconds_per_iteration: float
    waiting: float
    """Share of the time spent waiting for images, 0..1."""
    measured_seconds: float


def rehearse(
    network: nn.Module,
    objective: Objective,
    batches: EndlessBatches,
    config: LoopConfig,
    run_dir: Path,
    *,
    identity: Identity,
    observe: Observe | None = None,
    best_by: str | None = None,
    resume: bool = False,
) -> None:
    """What `fit` with the same arguments would cost: printed by the main process. Nothing is kept.

    Raises:
        ValueError, OSError: as `fit` does before it begins.
    """
    training = begun(network, objective, batches, config, run_dir, identity=identity, resume=resume, rehearsed=True)
    network.train()
    flops = _flops_per_image(training)
    activations = bytes_per_image(training)
    speed = _measured(training)
    if training.accelerator.is_main_process:
        rows = [
            ("network", f"{_parameters(network) / 1e6:.3g} M parameters, {flops / 1e9:.3g} GFLOP forward per image"),
            ("batch", _batch(training)),
            ("memory", _memory(training, activations)),
            ("checkpoints", _checkpoints(training, run_dir)),
            ("speed", _speed(training, speed)),
            ("budget", _budget(training)),
            ("time", _time(training, speed)),
            ("compares to", _comparison(training, identity.kind)),
        ]
        print("\n".join(f"{name:12} {text}" for name, text in rows))
        print("Nothing was written. Without --dry_run this training begins.")


def _measured(training: Training) -> Speed:
    """One update of one micro-batch, which differs from another micro-batch by the optimiser's work alone."""
    stop = StopRequest()
    stream = _micro_batches(training)
    update(training, [next(stream)], iteration=training.start_iteration, stop=stop)  # kernels and workers warm up
    first = next(stream)
    begin = time.perf_counter()
    update(training, [first], iteration=training.start_iteration, stop=stop)
    with_step = _seconds_since(begin, training)
    # Agreed beforehand, since processes that share a network compute together.
    seconds_each = float(reduced(training.accelerator, torch.tensor(with_step), "mean"))
    count = max(2, round(MEASURED_SECONDS / seconds_each))
    begin, waited = time.perf_counter(), 0.0
    for _ in range(count):
        waits = time.perf_counter()
        batch = next(stream)
        waited += time.perf_counter() - waits
        float(backward(training, batch, synced=False).total.detach())
    elapsed = _seconds_since(begin, training)
    training.optimizer.zero_grad()
    per_iteration = -(-training.share // training.micro_size)
    mean = elapsed / count
    seconds = (per_iteration - 1) * mean + max(with_step, mean)
    seconds = float(reduced(training.accelerator, torch.tensor(seconds), "mean"))
    return Speed(seconds_per_iteration=seconds, waiting=waited / elapsed, measured_seconds=elapsed)


def _micro_batches(training: Training) -> Iterator[Batch]:
    for iteration in training.iterations():
        yield from iteration


def _seconds_since(begin: float, training: Training) -> float:
    if training.accelerator.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _flops_per_image(training: Training) -> int:
    batch = first_batch(training, 1).to(training.accelerator.device)
    noise = SeededNoise(training.config.seed, batch.counter.tolist())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        training.objective(training.network, batch, noise)
    return counter.get_total_flops()


def _batch(training: Training) -> str:
    size, processes = training.config.batch.size, training.accelerator.num_processes
    per_iteration = -(-training.share // training.micro_size)
    micro = f"{_count(per_iteration, 'micro-batch', 'micro-batches')} of at most {training.micro_size}"
    return f"{size} images an iteration = {_count(processes, 'process', 'processes')} x {micro}"


def _memory(training: Training, activations: int) -> str:
    kept = training_bytes(training.network, averages=len(training.config.ema_decays))
    peak = peak_bytes()
    text = (
        f"{_bytes(kept)} of weights, gradients, moments and averages; activations {_bytes(activations)} an image, "
        f"{_bytes(activations * training.micro_size)} a micro-batch"
    )
    return text if peak is None else f"{text}; measured peak {_bytes(peak)}"


def _checkpoints(training: Training, run_dir: Path) -> str:
    config = training.config
    size = (3 + len(config.ema_decays)) * sum(p.numel() * p.element_size() for p in training.network.parameters())
    count = config.keep_checkpoints + (
        config.total_iterations // config.keep_every_iterations if config.keep_every_iterations else 0
    )
    existing = next(path for path in [run_dir.absolute(), *run_dir.absolute().parents] if path.exists())
    free = shutil.disk_usage(existing).free
    needed = (count + 1) * size  # a new one is written before an old one is deleted
    verdict = "" if needed < free else ": TOO LITTLE"
    return f"{_bytes(size)} each, at most {count} kept, {_bytes(free)} free on their disk{verdict}"


def _speed(training: Training, speed: Speed) -> str:
    rate = training.config.batch.size / speed.seconds_per_iteration
    return (
        f"{rate:.4g} images/s, {speed.seconds_per_iteration:.3g} s an iteration, measured over "
        f"{speed.measured_seconds:.0f} s, {speed.waiting:.0%} of them waiting for images"
    )


def _budget(training: Training) -> str:
    iterations, size = training.config.total_iterations, training.config.batch.size
    epochs = iterations * size / len(training.batches.images)
    return f"{iterations:,} iterations = {iterations * size:,} images = {epochs:.3g} epochs"


def _time(training: Training, speed: Speed) -> str:
    remaining = max(0, training.config.total_iterations - training.start_iteration)
    left = timedelta(seconds=round(remaining * speed.seconds_per_iteration))
    return f"{left} for the {remaining:,} iterations to go, without checkpoints and previews"


def _comparison(training: Training, kind: str) -> str:
    published = nearest_published(kind, image_size=training.batches.images.image_size)
    if published is None:
        return "no published training"
    images = training.config.total_iterations * training.config.batch.size
    return (
        f"{published.name}: {published.parameters:g} M parameters, {published.iterations:,} iterations of "
        f"{published.batch} = {published.images:,} images; this budget is {images / published.images:.2g} of them"
    )


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
