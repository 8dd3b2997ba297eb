"""Compiled networks: the cost of a call, the budget that repays compiling, and the way back where it fails."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm import tqdm

from .files import cache_folder
from .memory import is_out_of_memory
from .models.memory_format import lay_out
from .models.precision import InPrecision, Prepare

Compile = Literal["auto", "on", "off"] | bool
"""on, off, or by what the budget repays; on and off are true and false in YAML."""

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
    is_grad_enabled = torch.is_grad_enabled()  # leaving inference mode enables it
    with torch.inference_mode(False), torch.set_grad_enabled(is_grad_enabled), _Counting() as counting:
        call()  # in inference mode convolutions are dispatched under other names
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

    Nothing is timed: all processes, and a resumed run, decide alike.
    """
    saved = cost.eager_seconds * (1 - EAGER_FLOPS / COMPILED_FLOPS)
    return can_repay(device) and saved * calls > cost.kernels * COMPILING_SECONDS


def can_repay(device: torch.device) -> bool:
    """True for GPUs that Triton compiles for. On CPUs compiling gains nothing at 64 pixels."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)


def compile_or_warn(network: nn.Module, trial: Callable[[], object], *, graphs: bool = False) -> bool:
    """Compile the network's calls, for shapes that stay, and make a trial; True if it went well.

    Where it fails a warning says why, and the network runs as before. A trial without memory fails as it would have.
    graphs: replay the kernels of a call as one CUDA graph; its outputs are overwritten by the next call.
    """
    try:
        if (folder := cache_folder()) is not None:  # torch's own lies in /tmp, which the next run may find empty
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "compiled"))
        network.compile(dynamic=False, mode="reduce-overhead" if graphs else None)
        with torch._dynamo.config.patch(recompile_limit=sys.maxsize):  # else 8, for all networks of a program together
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


def preparation(asked: Compile, device: torch.device, *, images: float) -> Prepare | None:
    """A function that compiles a network on `device` if asked to or, with auto, if evaluating so many images repays it.

    The compiled network must give what it gave before, up to rounding; else it runs uncompiled, with a warning. None:
    nothing will be compiled.
    """

    def prepare(network: nn.Module, call: Callable[[], Tensor]) -> bool:
        cost, expected = call_cost(call), call()
        calls = images / len(expected)
        if asked == "auto" and not repays(cost, calls, device):
            return False
        seconds = cost.kernels * COMPILING_SECONDS
        tqdm.write(f"compiling a network for {calls:,.0f} calls: about {seconds:.0f} s", file=sys.stderr)
        is_half = isinstance(network, InPrecision) and network.dtype != torch.float32
        if is_half:  # a copy of the user's network
            lay_out(network, torch.channels_last)
        trial = partial(_refuse_difference, call, expected, most=0.05 if is_half else 0.01)
        # No graphs with gradients: a graph of another network would overwrite what a backward pass needs.
        is_plain = expected.is_cuda and not torch.is_grad_enabled()
        return compile_or_warn(network, trial, graphs=is_plain and cost.is_launch_bound)

    return prepare if asked in ("on", True) or (asked == "auto" and can_repay(device)) else None


def _refuse_difference(call: Callable[[], Tensor], expected: Tensor, *, most: float) -> None:
    """Refuse outputs whose root mean square difference is more than a share `most` of the expected ones'."""
    for _ in range(3):  # a CUDA graph is warmed up, recorded and replayed
        torch.compiler.cudagraph_mark_step_begin()
        found = call()
        difference, size = ((value.double().square().mean()) ** 0.5 for value in (found - expected, expected))
        if not difference <= most * size + 1e-6:
            raise ValueError(f"its outputs differ by {float(difference / size):.2g} of their size")
