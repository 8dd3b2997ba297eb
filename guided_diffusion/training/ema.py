"""Moving averages of a network's parameters."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..distributed import full, full_state, laid_out_like, local, reshard
from ..weight_averages import decay, slowest_average


class EMA:
    """Averages of a network's weights, several at once, under the names that checkpoints use (`weight_averages`).

    Those of a constant decay begin from the initial weights. Those of a power function begin with the first update;
    should it be skipped, the initial weights count as its result.
    """

    def __init__(self, network: nn.Module, names: Iterable[str]) -> None:
        self.network = network
        self.averages = {name: [parameter.detach().clone() for parameter in network.parameters()] for name in names}

    @torch.no_grad()
    def update(self, iteration: int) -> None:
        """Once per optimiser update, after it: one fused call for all averages. iteration: its number, from 1."""
        parameters = [local(parameter.detach()) for parameter in self.network.parameters()]
        averages = [local(average) for averages in self.averages.values() for average in averages]
        towards = [share for name in self.averages for share in [1 - decay(name, iteration)] * len(parameters)]
        if averages:
            torch._foreach_lerp_(averages, parameters * len(self.averages), towards)  # pyright: ignore[reportPrivateImportUsage, reportArgumentType, reportCallIssue]  # no public one, typed for one weight

    def state_dicts(self) -> dict[str, dict[str, Tensor]]:
        """The weights of each average by its name; buffers are the network's own.

        Where they are sharded, every process must call this.
        """
        names = [name for name, _ in self.network.named_parameters()]
        own = full_state(self.network.state_dict())
        return {
            title: own | {name: full(average) for name, average in zip(names, averages, strict=True)}
            for title, averages in self.averages.items()
        }

    @torch.no_grad()
    def load(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Continue the average of that name from a state dict."""
        for (key, _), average in zip(self.network.named_parameters(), self.averages[name], strict=True):
            local(average).copy_(local(laid_out_like(state[key], average)))

    @contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """The network in evaluation mode with its slowest average's weights (its own if none), then as it was."""
        self.network.eval()
        self._exchange_slowest()
        try:
            yield self.network
        finally:
            self._exchange_slowest()
            self.network.train()

    @torch.no_grad()
    def _exchange_slowest(self) -> None:
        """Exchange contents, not storages, which FSDP and compiled networks hold on to; no second copy of all."""
        slowest = slowest_average(self.averages)
        if slowest is None:
            return
        reshard(self.network)
        for parameter, average in zip(self.network.parameters(), self.averages[slowest], strict=True):
            trained, averaged = local(parameter.detach()), local(average)
            kept = trained.clone()
            trained.copy_(averaged)
            averaged.copy_(kept)
