"""One optimiser update, on one process or many, in one piece or in micro-batches."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from ..data.batches import Batch, EndlessBatches
from ..diffusion.noise import SeededNoise, sample_seed
from ..distributed import clip_gradients, gathered, gradients_synced, reduced
from .config import LoopConfig
from .ema import EMA
from .objective import Adaptive, Losses, Objective
from .stop_request import InterruptedWork, StopRequest

DROPOUT = 1 << 32
"""Added to the seed, so that dropout's generator is not that of the training sample with the iteration's number."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """All that an iteration changes, and what it is made with."""

    config: LoopConfig
    accelerator: Accelerator
    network: nn.Module
    model: nn.Module
    """The network as it is called: in its precision, its gradients exchanged with the other processes."""
    objective: Objective
    optimizer: AcceleratedOptimizer
    ema: EMA
    batches: EndlessBatches
    micro_size: int
    """Most samples that this process computes at a time."""
    start_iteration: int

    @property
    def share(self) -> int:
        """Samples of this process per iteration."""
        return self.batches.share(self.accelerator.num_processes)

    def iterations(self) -> Iterator[list[Batch]]:
        """The micro-batches of this process, iteration by iteration, on the host."""
        stream = self.batches.micro_batches(
            start_iteration=self.start_iteration,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            micro_size=self.micro_size,
        )
        count = -(-self.share // self.micro_size)
        while True:
            yield [next(stream) for _ in range(count)]


@dataclass(frozen=True, kw_only=True)
class Updated:
    """What became of an update; the same on every process but for the numbers."""

    numbers: Mapping[str, Tensor] | None
    """This process's, () each, for the log; None if loss or gradient were not finite: then nothing has changed."""
    is_overflow: bool = False
    """The gradient alone was not finite, under a loss scale that can still be lowered."""
    stop_requested: bool = False
    """Some process was asked to stop."""


def update(training: Training, micro_batches: Sequence[Batch], *, iteration: int, stop: StopRequest) -> Updated:
    """One optimiser update on this process's share of a batch.

    Raises:
        InterruptedWork: a lone process was asked to stop; nothing is changed then.
    """
    accelerator, optimizer, config = training.accelerator, training.optimizer, training.config
    # Dropout alone uses the global generator; reseeding it makes iteration n the same after a resume.
    rank, world_size = accelerator.process_index, accelerator.num_processes
    torch.manual_seed(sample_seed(DROPOUT + config.seed, iteration * world_size + rank))
    for group in optimizer.param_groups:
        group["lr"] = _learning_rate(config, iteration)
    means, observed = _accumulated(training, micro_batches, stop=stop)
    accelerator.unscale_gradients(optimizer)
    norm = clip_gradients(training.model, max_norm=config.max_grad_norm)
    broken_losses, broken_gradients, stops = _over_processes(
        training, ~means["loss"].isfinite(), ~norm.isfinite(), torch.tensor(stop.requested)
    )
    is_finite = not broken_losses and not broken_gradients
    if is_finite or accelerator.scaler is not None:  # a loss scale leaves the update out by itself, and learns from it
        optimizer.step()
    optimizer.zero_grad()
    if not is_finite:
        can_be_lowered = accelerator.scaler is not None and accelerator.scaler.get_scale() > 1
        return Updated(numbers=None, is_overflow=can_be_lowered and not broken_losses, stop_requested=stops)
    training.ema.update()
    if isinstance(training.objective, Adaptive):
        training.objective.update(gathered(accelerator, observed))
    return Updated(numbers={**means, "grad_norm": norm}, stop_requested=stops)


def _accumulated(
    training: Training, micro_batches: Sequence[Batch], *, stop: StopRequest
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Fill the gradients; the means of what the objective logs, and what it observed, sample by sample."""
    means: dict[str, Tensor] = {}
    observed: list[Mapping[str, Tensor]] = []
    for batch in micro_batches:
        if stop.requested and training.accelerator.num_processes == 1:
            training.optimizer.zero_grad()
            raise InterruptedWork
        losses = backward(training, batch, synced=batch is micro_batches[-1])
        for name, value in {"loss": losses.total, **losses.logged}.items():
            means[name] = means.get(name, 0.0) + value.detach() * (len(batch.y) / training.share)
        observed.append(losses.observed)
    return means, {name: torch.cat([micro[name].detach() for micro in observed]) for name in observed[0]}


def backward(training: Training, batch: Batch, *, synced: bool) -> Losses:
    """Add a micro-batch's part to the gradients."""
    noise = SeededNoise(training.config.seed, batch.counter.tolist())
    on_device = batch.to(training.accelerator.device)
    if training.config.channels_last:
        on_device = replace(on_device, x0=on_device.x0.contiguous(memory_format=torch.channels_last))
    with gradients_synced(training.accelerator, training.model, synced=synced):
        losses = training.objective(training.model, on_device, noise)
        training.accelerator.backward(losses.total * (len(batch.y) / training.share))
    return losses


def _over_processes(training: Training, *facts: Tensor) -> list[bool]:
    """Whether each fact, () bool, holds on any process. The host waits for the device here, once an iteration."""
    device = training.accelerator.device
    stacked = torch.stack([fact.to(device) for fact in facts]).float()
    if training.accelerator.num_processes > 1:
        stacked = reduced(training.accelerator, stacked, "sum")
    return (stacked > 0).tolist()


def _learning_rate(config: LoopConfig, iteration: int) -> float:
    remaining = 1 - iteration / config.total_iterations if config.anneal == "linear" else 1.0
    return config.learning_rate * remaining
