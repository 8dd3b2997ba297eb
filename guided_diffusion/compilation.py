"""Compiled networks: the cost of a call, the budget that repays compiling, and the way back where it fails."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from .memory import is_out_of_memory

Compile = Literal["auto", "on", "off"]
"""on, off, or by what the budget repays."""

EAGER_FLOPS, COMPILED_FLOPS = 1.2e14, 3.4e14
"""Operations a second of ADM's 64-pixel network, batch 64, in bfloat16 on an H100 (measured)."""
LAUNCH_SECONDS = 6e-6
"""The host's time for one kernel."""
COMPILING_SECONDS = 0.1
"""Compiling time for each kernel of a call: a minute for the forward pass of ADM's 64-pixel network."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CallCost:
    """The work of one call."""

    flops: int
    """Operations of its convolutions, matrix products and attention; a multiplication and an addition are two."""
    kernels: int

    @property
    def eager_seconds(self) -> float:
        """Estimate for a GPU like those of `EAGER_FLOPS`."""
        return max(self.flops / EAGER_FLOPS, self.kernels * LAUNCH_SECONDS)

    @property
    def is_launch_bound(self) -> bool:
        """True where a GPU would wait for the host even when compiled, so that CUDA graphs pay."""
        return self.kernels * LAUNCH_SECONDS > self.flops / COMPILED_FLOPS


def call_cost(call: Callable[[], object]) -> CallCost:
    """The cost of `call`, by making it; with tensors on the device "meta" nothing is computed."""
    with _Counting() as counting:
        call()
    return CallCost(counting.flops, counting.kernels)


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        from torch.utils.flop_counter import flop_registry  # here, because it imports triton

        self.flops = self.kernels = 0
        self.registry = flop_registry

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # torch's own form
        out = func(*args, **(kwargs or {}))
        self.kernels += not func.is_view
        if (packet := func.overloadpacket) in self.registry:
            self.flops += self.registry[packet](*args, **(kwargs or {}), out_val=out)
        return out


def repays(cost: CallCost, calls: float, device: torch.device) -> bool:
    """True where `calls` such calls take longer on this device than a compiled network and its compiling.

    On CPUs compiling gains nothing at 64 pixels. Nothing is timed: all processes, and a resumed run, decide alike.
    """
    has_compiler = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)  # as Triton needs
    saved = cost.eager_seconds * (1 - EAGER_FLOPS / COMPILED_FLOPS)
    return has_compiler and saved * calls > cost.kernels * COMPILING_SECONDS


def compile_or_warn(network: nn.Module, trial: Callable[[], object], *, graphs: bool = False) -> bool:
    """Compile the network's calls, for shapes that stay, and make a trial; True if it went well.

    Where it fails a warning says why, and the network runs as before. A trial without memory fails as it would have.
    graphs: replay the kernels of a call as one CUDA graph; its outputs are overwritten by the next call.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_cache()))
    network.compile(dynamic=False, mode="reduce-overhead" if graphs else None)
    try:
        trial()
    except Exception as error:  # any: compilers, their caches and their drivers fail in many ways
        network._compiled_call_impl = None  # pyright: ignore[reportPrivateUsage]  # torch has no way back of its own
        if is_out_of_memory(error):
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        _logger.warning("the network could not be compiled and runs uncompiled, more slowly: %s", reason)
        return False
    return True


@contextmanager
def uncompiled(network: nn.Module) -> Iterator[None]:
    """The network's plain calls, for other shapes than those compiled."""
    compiled = network._compiled_call_impl  # pyright: ignore[reportPrivateUsage]  # torch has no public way
    network._compiled_call_impl = None
    try:
        yield
    finally:
        network._compiled_call_impl = compiled


def _cache() -> Path:
    """Directory of compiled code, which the next run finds again; torch's own lies in /tmp."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "guided-diffusion" / "compiled"
