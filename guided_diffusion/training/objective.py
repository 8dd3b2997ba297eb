"""What a network is trained for, as the loop sees it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from ..data.batches import Batch
from ..diffusion.noise import SeededNoise


@dataclass(frozen=True)
class Losses:
    """What an objective returns for a micro-batch."""

    total: Tensor
    """() what is minimised."""
    logged: Mapping[str, Tensor]
    """() each; their means over the batch are logged."""
    observed: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """(B,) each, a value per sample: what an adaptive objective learns from."""


class Objective(Protocol):
    """What a network is trained for."""

    def __call__(self, network: nn.Module, batch: Batch, noise: SeededNoise) -> Losses:
        """Losses of one micro-batch; whatever is random comes from `noise`, which holds one generator per sample."""
        ...


@runtime_checkable
class Adaptive(Protocol):
    """What an objective with a memory has besides."""

    def update(self, observed: Mapping[str, Tensor]) -> None:
        """Learn from an iteration's `Losses.observed`: all of the global batch in stream order, on the CPU."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """The memory, for the checkpoint."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a checkpoint's memory."""
        ...


Observe = Callable[[nn.Module, int], Mapping[str, float]]
"""(network with averaged weights, iteration) -> metrics to log; it may write files such as previews."""
