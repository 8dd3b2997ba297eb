"""Exponential moving averages of a network's parameters."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..distributed import full, full_state, laid_out_like, local, reshard


class EMA:
    """theta_ema <- decay * theta_ema + (1 - decay) * theta, for several decays at once, from the initial weights on."""

    def __init__(self, network: nn.Module, decays: Sequence[float]) -> None:
        self.network = network
        self.averages = {decay: [parameter.detach().clone() for parameter in network.parameters()] for decay in decays}

    @torch.no_grad()
    def update(self) -> None:
        """Once per optimiser update, after it: one fused call for all averages."""
        parameters = [local(parameter.detach()) for parameter in self.network.parameters()]
        averages = [local(average) for averages in self.averages.values() for average in averages]
        towards = [1 - decay for decay, averages in self.averages.items() for _ in averages]
        if averages:
            torch._foreach_lerp_(averages, parameters * len(self.averages), towards)  # pyright: ignore[reportPrivateImportUsage, reportArgumentType, reportCallIssue]  # no public one, typed for one weight

    def state_dicts(self) -> dict[str, dict[str, Tensor]]:
        """Weights under the names that checkpoints use, "ema_0.9999"; buffers are the network's own.

        Where they are sharded, every process must call this.
        """
        names = [name for name, _ in self.network.named_parameters()]
        own = full_state(self.network.state_dict())
        return {
            f"ema_{decay}": own | {name: full(average) for name, average in zip(names, averages, strict=True)}
            for decay, averages in self.averages.items()
        }

    @torch.no_grad()
    def load(self, decay: float, state: Mapping[str, Tensor]) -> None:
        """Continue the average of that decay from a state dict."""
        for (name, _), average in zip(self.network.named_parameters(), self.averages[decay], strict=True):
            local(average).copy_(local(laid_out_like(state[name], average)))

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
        if not self.averages:
            return
        reshard(self.network)
        for parameter, average in zip(self.network.parameters(), self.averages[max(self.averages)], strict=True):
            trained, averaged = local(parameter.detach()), local(average)
            kept = trained.clone()
            trained.copy_(averaged)
            averaged.copy_(kept)
