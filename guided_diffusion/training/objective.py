"""The protocol of training objectives, all that the loop knows of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from ..data.batches import Batch
from ..diffusion.noise import SeededNoise


@dataclass(frozen=True)
class Losses:
    """The losses of a micro-batch."""

    total: Tensor
    """() minimised."""
    logged: Mapping[str, Tensor]
    """() each; their means over the batch are logged."""
    observed: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """(B,) each, for an adaptive objective."""


class Objective(Protocol):
    """A function from network, batch and noise to losses."""

    def __call__(self, network: nn.Module, batch: Batch, noise: SeededNoise) -> Losses:
        """Losses of a micro-batch; all randomness comes from `noise`, which holds one generator per sample."""
        ...


@runtime_checkable
class Adaptive(Protocol):
    """The further methods of an objective that has a state of its own."""

    def update(self, observed: Mapping[str, Tensor]) -> None:
        """Learn from `Losses.observed` of an iteration: the global batch in stream order, on the CPU."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """The state, for the checkpoint."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a checkpoint's state."""
        ...


Observe = Callable[[nn.Module, int], Mapping[str, float]]
"""(network with averaged weights, iteration) -> metrics to log; may write files such as previews."""
