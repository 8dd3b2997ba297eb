"""The protocol of training objectives, all that the loop knows of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

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
    """(B,) each: "loss" and, where timesteps are drawn by past losses, their index "k"."""


class Objective(Protocol):
    """A function from network, batch and noise to losses."""

    def __call__(self, network: nn.Module, batch: Batch, noise: SeededNoise) -> Losses:
        """Losses of a micro-batch; all randomness comes from `noise`, which holds one generator per sample."""
        ...


Observe = Callable[[nn.Module, int], Mapping[str, float]]
"""(network with averaged weights, iteration) -> metrics to log; may write files such as previews."""
