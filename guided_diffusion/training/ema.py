"""Exponential moving averages of a network's parameters."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """theta_ema <- decay * theta_ema + (1 - decay) * theta, for several decays at once, from the initial weights on."""

    def __init__(self, network: nn.Module, decays: Sequence[float]) -> None:
        self.network = network
        self.averages = {decay: [parameter.detach().clone() for parameter in network.parameters()] for decay in decays}

    @torch.no_grad()
    def update(self) -> None:
        """Once per optimiser update, after it."""
        parameters = [parameter.data for parameter in self.network.parameters()]
        for decay, averages in self.averages.items():
            torch._foreach_lerp_(averages, parameters, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]  # no public one

    def state_dicts(self) -> dict[str, dict[str, Tensor]]:
        """Weights under the names that checkpoints use, "ema_0.9999"; what is no parameter is the network's own."""
        names = [name for name, _ in self.network.named_parameters()]
        return {
            f"ema_{decay}": self.network.state_dict() | dict(zip(names, averages, strict=True))
            for decay, averages in self.averages.items()
        }

    @torch.no_grad()
    def load(self, decay: float, state: Mapping[str, Tensor]) -> None:
        """Continue the average of that decay from a state dict."""
        for (name, _), average in zip(self.network.named_parameters(), self.averages[decay], strict=True):
            average.copy_(state[name])

    @contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """The network in evaluation mode with its slowest average's weights (its own if none), then as it was."""
        self.network.eval()
        try:
            with self._slowest_swapped_in():
                yield self.network
        finally:
            self.network.train()

    @contextmanager
    def _slowest_swapped_in(self) -> Iterator[None]:
        averages = self.averages[max(self.averages)] if self.averages else list(self.network.parameters())
        trained = [parameter.data for parameter in self.network.parameters()]
        try:
            for parameter, average in zip(self.network.parameters(), averages, strict=True):
                parameter.data = average.data
            yield
        finally:
            for parameter, data in zip(self.network.parameters(), trained, strict=True):
                parameter.data = data
