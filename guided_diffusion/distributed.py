"""Devices, processes and sharding: all that knows accelerate and torch.distributed.

accelerate and DTensor take seconds to import, so the functions that need them import them.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeGuard, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .files import locked

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.distributed.tensor import DTensor

T = TypeVar("T")

TIMEOUT = timedelta(hours=2)
"""Timeout of collectives: the others wait while one process makes previews, writes a checkpoint or computes metrics.
Torch's default is 10 minutes. The first process group of a program decides, so every call passes it."""


def default_device() -> torch.device:
    """The accelerator if there is one. Apple's does not count: it has no float64, as coefficients need."""
    device = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if device is None or device.type == "mps" else device


@dataclass(frozen=True)
class Process:
    """This process among those of the run."""

    device: torch.device
    rank: int
    world_size: int

    @property
    def is_main(self) -> bool:
        """True for the one process that prints and writes."""
        return self.rank == 0


def this_process() -> Process:
    """Device, rank and number of processes of a run started by torchrun, `accelerate launch` or plain Python.

    Raises:
        ValueError: accelerate and torch disagree about the number of processes.
    """
    from accelerate import PartialState

    # Without `cpu`, on a machine without accelerators, accelerate takes each of torchrun's processes for the only one:
    # all would do the whole work, and sums over the process group would count everything once per process.
    state = PartialState(cpu=default_device().type == "cpu", timeout=TIMEOUT)
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    if world_size != state.num_processes:
        raise ValueError(
            f"accelerate sees {state.num_processes} process where {world_size} were started: its state was created "
            f"earlier, without cpu=True though there is no accelerator; run this in a program of its own under torchrun"
        )
    return Process(torch.device(state.device or "cpu"), state.process_index, state.num_processes)


def wait_for_everyone() -> None:
    """Block until every process has come here."""
    from accelerate import PartialState

    this_process()
    PartialState().wait_for_everyone()


def broadcast_from_main(value: T) -> T:
    """The main process's value, which can be pickled, on every process."""
    from accelerate.utils import broadcast_object_list

    this_process()
    box = [value]
    broadcast_object_list(box)
    return box[0]


def on_main_process(work: Callable[[], T]) -> T:
    """The result of `work`, which the main process alone does, on every process; if it fails there, all fail.

    Raises:
        ValueError: on the other processes, if the main one raised ValueError or OSError.
        RuntimeError: on the other processes, if it raised anything else.
    """
    result, failure, refusal = None, None, None
    if this_process().is_main:
        try:
            result = work()
        except Exception as error:  # any: the others must not wait for a result that will not come
            failure = error
            is_refusal = isinstance(error, ValueError | OSError)
            refusal = ValueError(str(error)) if is_refusal else RuntimeError(f"the main process failed: {error!r}")
    result, refusal = broadcast_from_main((result, refusal))
    if refusal is not None:
        raise failure or refusal
    return cast(T, result)


@contextmanager
def locked_for_run(directory: Path, *, work: str, name: str | None = None) -> Iterator[None]:
    """`files.locked` by the main process for all processes of a run; where it is refused, all of them fail.

    Raises:
        ValueError: another run holds it.
    """
    with ExitStack() as held:
        on_main_process(lambda: held.enter_context(locked(directory, work=work, name=name)))
        yield


def print_from_main(text: str) -> None:
    """Print a line to standard error, once for all processes."""
    if this_process().is_main:
        print(text, file=sys.stderr)


_tallies = count()


class Tally:
    """Whole numbers summed over all processes, by name, in the store through which the processes found each other.

    Unlike a collective, adding makes no process wait for another. All processes make their tallies in the same order.
    """

    def __init__(self) -> None:
        from torch.distributed import HashStore, PrefixStore  # pyright: ignore[reportPrivateImportUsage]  # documented
        from torch.distributed.distributed_c10d import _get_default_store  # pyright: ignore[reportPrivateUsage]  # no public name

        shared = _get_default_store() if this_process().world_size > 1 else HashStore()
        self._store = PrefixStore(f"tally {next(_tallies)}", shared)

    def add(self, name: str, number: int) -> None:
        """Add to the sum of that name."""
        self._store.add(name, number)

    def total(self, name: str) -> int:
        """The sum so far; 0 before anything was added."""
        return self._store.add(name, 0)


def make_accelerator(precision: Literal["auto", "float32", "bfloat16", "float16"]) -> "Accelerator":
    """accelerate's handle for training in that precision; auto takes bfloat16 on GPUs that have it, else float32.

    Raises:
        ValueError: float16 without a GPU.
    """
    from accelerate import Accelerator, InitProcessGroupKwargs

    on_cpu = default_device().type == "cpu"
    if precision == "auto":
        has_bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bfloat16" if has_bfloat16 else "float32"
    if precision == "float16" and on_cpu:
        raise ValueError("training.precision float16 needs a GPU; take float32 here")
    short = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[precision]
    return Accelerator(mixed_precision=short, cpu=on_cpu, kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT)])


def gradients_synced(
    accelerator: "Accelerator", model: nn.Module, *, synced: bool
) -> AbstractContextManager[object, bool | None]:
    """Exchange gradients between processes in this micro-batch, or not: once per update, with the last one."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(synced)
    elif not synced:
        return accelerator.no_sync(model)
    return nullcontext()


def clip_gradients(model: nn.Module, *, max_norm: float | None) -> Tensor:
    """() L2 norm of all gradients before they are scaled down to `max_norm`; None scales nothing."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([cast(Tensor, parameter.grad) for parameter in parameters])
    if max_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm.full_tensor() if _is_sharded(norm) else norm


def on_any_process(*facts: Tensor | bool) -> Tensor:
    """(n,) bool on the device, for each fact, () or Python's: True on every process if it holds on any."""
    device = this_process().device
    # A bool is filled in: copying it would make the host wait for the device.
    own = [fact.to(device) if isinstance(fact, Tensor) else torch.full((), fact, device=device) for fact in facts]
    return reduced(torch.stack(own).float(), "sum") > 0


def reduced(values: Tensor, reduction: Literal["sum", "mean"]) -> Tensor:
    """Sums or means over processes, on every process."""
    from accelerate.utils.operations import reduce

    return cast(Tensor, reduce(values.to(this_process().device), reduction=reduction))


def gathered(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values (b,) of every process concatenated in the order of ranks, (B,), on the CPU."""
    from accelerate.utils.operations import gather

    return {name: cast(Tensor, gather(value.to(this_process().device))).cpu() for name, value in values.items()}


def shard(network: nn.Module, *, device_type: str) -> None:
    """Shard the network's parameters over all processes, level by level and block by block, in place."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device_type, (dist.get_world_size(),))
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    for modules in reversed(lists):  # inner ones first: fully_shard leaves out what is already sharded
        for module in modules:
            fully_shard(module, mesh=mesh)
    fully_shard(network, mesh=mesh)


def reshard(network: nn.Module) -> None:
    """Shard the parameters again that a forward pass without gradients has left whole."""
    from torch.distributed.fsdp import FSDPModule

    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _is_sharded(tensor: Tensor) -> "TypeGuard[DTensor]":
    return hasattr(tensor, "to_local")  # by its method: importing DTensor takes a second


def full(tensor: Tensor) -> Tensor:
    """The whole tensor. A sharded one is gathered on the CPU of the main process: every process must call this, and the
    others get an empty tensor."""
    if not _is_sharded(tensor):
        return tensor
    whole = tensor.full_tensor()
    return whole.cpu() if this_process().is_main else whole.new_empty(0)


def full_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of whole tensors, as `full`."""
    return {name: full(tensor) for name, tensor in state.items()}


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, sharing its memory."""
    return tensor.to_local() if _is_sharded(tensor) else tensor


def laid_out_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A copy of a whole tensor with like's device, memory format and sharding.

    The fused optimiser walks weights and moments in the order of memory, so they must be laid out alike.
    """
    copy = torch.empty_like(like, dtype=tensor.dtype, requires_grad=False)
    whole = tensor.to(like.device)
    if _is_sharded(like):
        from torch.distributed.tensor import distribute_tensor

        whole = distribute_tensor(whole, like.device_mesh, like.placements)
    local(copy).copy_(local(whole))
    return copy


def free_cached_memory() -> None:
    """Return to the device what a failed attempt has left behind."""
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)
