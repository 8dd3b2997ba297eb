"""Records of a training: what it is made of (`TrainingRun`), and its state as it goes (`TrainState`)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..data.batches import Batch, EndlessBatches
from ..diffusion.timesteps import LossSecondMoment
from ..distributed import Process
from ..models.recomputation import Recomputed
from .config import LoopConfig
from .ema import EMA
from .objective import Objective, Observe
from .source import Source

if TYPE_CHECKING:
    from ..distributed import Accelerator


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """A training: `fit` starts or resumes it, `estimate_cost` measures it.

    Raises:
        ValueError: early stopping without a metric to watch.
    """

    directory: Path
    """Run directory: checkpoints and metrics.jsonl."""
    kind: str
    """Kind of its checkpoints: "diffusion", "classifier" or "upsampler"."""
    model: Any
    """Config of the model, a dataclass or plain mapping; a resumed run must have the same."""
    settings: Any
    """Config of the command, recorded in the checkpoints."""
    network: nn.Module
    objective: Objective
    batches: EndlessBatches
    config: LoopConfig
    observe: Observe | None = None
    """Previews or held-out measurements, every config.observe_every_iterations."""
    best_by: str | None = None
    """Metric of `observe`, the larger the better, for config.stop_after_worse."""
    resume: bool = False
    source: Source | None = None
    """The weights that it begins from; None: random ones."""

    @property
    def adaptive_timesteps(self) -> LossSecondMoment | None:
        """The timestep sampler of the objective, if it learns from the losses; its state is in the checkpoints."""
        timesteps = getattr(self.objective, "timesteps", None)  # objectives of other networks have none
        return timesteps if isinstance(timesteps, LossSecondMoment) else None

    def __post_init__(self) -> None:
        if self.config.stop_after_worse is not None and (self.best_by is None or self.observe is None):
            raise ValueError(
                "training.stop_after_worse needs a held-out measurement, and this training makes none; leave it out"
            )


class HostCopy:
    """A copy of a tensor on its way to the host, which waits for it only where it is read."""

    def __init__(self, tensor: Tensor) -> None:
        self._copy = tensor.to("cpu", non_blocking=True)
        self._arrival = None if tensor.device.type == "cpu" else torch.Event(tensor.device)
        if self._arrival is not None:
            self._arrival.record()

    def read(self) -> Tensor:
        """The copy; work that was given to the device after it is not waited for."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return self._copy


@dataclass(kw_only=True)
class Update:
    """An update from its gradients, which are accumulated in the network, to its outcome."""

    micro_batches: Sequence[Batch]
    numbers: dict[str, Tensor]
    """() each, for the log: means of the losses over this process's share and, once launched, the gradient's norm."""
    observed: Mapping[str, Tensor]
    """(B,) each, as in `Losses`."""
    flags: HostCopy | None = None
    """Once launched, (4,) bool: loss not finite, gradient not finite, loss absurdly large, a process asked to stop."""
    is_finite: bool = True
    """Once settled: loss and gradient were finite on every process; else nothing has changed."""
    stop_requested: bool = False
    """Once settled: some process was asked to stop."""


@dataclass(kw_only=True)
class TrainState:
    """All that changes as a training goes, beside the network and the objective of its run."""

    run: TrainingRun
    process: Process
    accelerator: "Accelerator"
    model: nn.Module
    """The network as it is called: in its precision, its gradients averaged over processes."""
    optimizer: Optimizer
    ema: EMA
    micro_size: int
    """Most samples that this process computes at a time."""
    recomputed: Recomputed = ()
    """Parts of the network that the backward pass computes again."""
    start_iteration: int
    iteration: int
    """Updates made so far."""
    data: Mapping[str, Any]
    """Number and fingerprint of the images, for the checkpoints of the main process."""
    lineage: Sequence[Mapping[str, Any]]
    """As in `Checkpoint`."""
    launched: Update | None = None
    """The update that is not settled: its average is not made, and its outcome not judged."""
    waited: float = 0.0
    """Seconds spent waiting for images since the last line of the log."""
    saved_iteration: int
    """The iteration of the newest checkpoint, or of the start."""
    largest_weight: Tensor
    """() of this process, in the newest checkpoint or at the start."""
    largest_loss: Tensor
    """() of this process in sound updates, and at least 1; NaN before the first."""
    sound_iteration: int | None = None
    """The iteration of the newest checkpoint from which a sound update began."""
    is_sound: bool = True
    """The last update was sound."""
    unsound_in_a_row: int = 0
    """Updates that went wrong since the last sound one; an overflow that only lowers the loss scale does not count."""
    save_from: int | None = None
    """The iteration from which on a checkpoint is due; None: none is due before the next interval ends."""
    has_converged: bool = False
    """Early stopping has ended the training."""

    @property
    def settles_late(self) -> bool:
        """True where the outcome of an update may be read after the next one's gradients were launched.

        A device then never waits for the host. A loss scale and adaptive timesteps need the outcome before.
        """
        is_free = self.accelerator.scaler is None and self.run.adaptive_timesteps is None
        return is_free and self.process.device.type != "cpu"

    @property
    def share(self) -> int:
        """Samples of this process per iteration."""
        return self.run.batches.share(self.process.world_size)

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of this process per iteration."""
        return -(-self.share // self.micro_size)

    @property
    def is_over(self) -> bool:
        """True at the end of the budget or after early stopping."""
        return self.has_converged or self.iteration >= self.run.config.total_iterations

    def is_due(self, every: int) -> bool:
        """True at multiples of `every` iterations and at the end of the budget."""
        return self.iteration % every == 0 or self.iteration == self.run.config.total_iterations

    def micro_batches(self) -> Iterator[list[Batch]]:
        """The micro-batches of this process, iteration by iteration, endless, on the host."""
        stream = self.run.batches.micro_batches(
            start_iteration=self.start_iteration,
            rank=self.process.rank,
            world_size=self.process.world_size,
            micro_size=self.micro_size,
        )
        while True:
            yield [next(stream) for _ in range(self.num_micro_batches)]
