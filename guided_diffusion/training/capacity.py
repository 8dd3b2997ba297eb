"""Memory of a training: as many images at a time as it holds, and what is recomputed for their sake."""

import os
import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from weakref import ref

import psutil
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..compilation import uncompiled
from ..data.batches import Batch
from ..diffusion.noise import SeededNoise
from ..distributed import gathered, local, print_from_main
from ..memory import first_fitting, halves
from ..models.recomputation import Recomputed
from ..models.unet import level_sizes, recompute
from .frozen_parts import trained_parameters
from .run import TrainingRun, TrainState
from .step import backward

CPU_SHARE = 0.7
"""Share of the free memory that activations may take on a CPU, where a process that runs out is killed."""


def fitting_size(state: TrainState, before: Mapping[str, int]) -> int:
    """Samples at a time: as configured, or as many of the share as memory holds on every process.

    What is to be recomputed for that is chosen too. before: the cut of a resumed training, which is kept: sums in
    another order differ in their last bits.
    """
    config, share, device = state.run.config, state.share, state.process.device
    wanted, known = config.batch.per_process, before["micro_size"] if before.get("share") == share else None
    if wanted != "auto":
        known = min(wanted, share)
    if config.shard and known is None and device.type != "cpu":
        raise ValueError(
            "training.shard cannot search for the batch that fits, because a process that runs out of memory would "
            "leave the others waiting; give --training.batch.per_process"
        )
    if known and (config.shard or (wanted != "auto" and device.type == "cpu")):
        return known
    by_trial = partial(size_by_trial, state, [known] if known else halves(share))
    fitting = evenly_cut(share, most=_cpu_size(state) if device.type == "cpu" else by_trial())
    if state.recomputed and config.recompute_sizes == "auto":
        option = state.recomputed if state.recomputed == "pointwise" else f"'{[*state.recomputed]}'"
        print_from_main(f"memory is short: training goes on as with --training.recompute_sizes {option}")
    return known or int(gathered({"fitting": torch.tensor([fitting])})["fitting"].min())


def _cpu_size(state: TrainState) -> int:
    """Images whose activations fit; since fewer at a time cost nothing here, only one that does not is recomputed."""
    network, image = state.run.network, 0
    choices = _recomputations(state, everything=True)
    for recomputed in choices[:1] if state.run.config.shard else choices:  # a sharded network computes on all alike
        recompute(network, recomputed)
        state.recomputed = recomputed
        image = bytes_per_image(state)
        if image <= CPU_SHARE * _room(network):
            break
    return cpu_limit(network, image)


def size_by_trial(state: TrainState, sizes: Sequence[int]) -> int:
    """The first of these sizes for which a trial fits, if need be with pointwise operations recomputed.

    Whole levels are recomputed last: that costs up to a third of the time, smaller micro-batches a few percent.
    """

    def attempt(candidate: tuple[int, Recomputed]) -> None:
        recompute(state.run.network, candidate[1])
        try_size(state, candidate[0])

    cheap, all_ways = (_recomputations(state, everything=is_last) for is_last in (False, True))
    candidates: list[tuple[int, Recomputed]] = [
        (size, way) for size in sizes for way in (all_ways if size == sizes[-1] else cheap)
    ]
    size, state.recomputed = first_fitting(candidates, attempt)
    return size


def _recomputations(state: TrainState, *, everything: bool) -> list[Recomputed]:
    """Choices, cheapest first: as configured, or nothing, pointwise operations, and more and more levels."""
    wanted = state.run.config.recompute_sizes
    if wanted != "auto":
        return [wanted]
    sizes = level_sizes(state.run.network)
    return [(), "pointwise", *(tuple(sizes[: n + 1]) for n in range(len(sizes) if everything else 0))]


def bytes_per_image(state: TrainState) -> int:
    """Bytes that the forward pass of one image keeps for its backward pass."""
    return activation_bytes(state.run.network, partial(loss_of_first_image, state.run, state.process.device))


def loss_of_first_image(run: TrainingRun, device: torch.device) -> Tensor:
    """The loss () of the first sample of the stream, by a network on that device."""
    batch = first_batch(run, 1)
    noise = SeededNoise(run.config.seed, batch.counter.tolist())
    with uncompiled(run.network):
        return run.objective(run.network, batch.to(device), noise).total


def try_size(state: TrainState, size: int) -> None:
    """A forward and backward pass of `size` images beside all that an update will need; changes nothing.

    Raises:
        RuntimeError: out of memory.
    """
    moments = [torch.zeros_like(one) for one in trained_parameters(state.run.network) for _ in range(2)]
    try:
        backward(state, first_batch(state.run, size), synced=False)
    finally:
        state.optimizer.zero_grad()
    del moments


def first_batch(run: TrainingRun, size: int) -> Batch:
    """The first `size` samples of the stream, on the host."""
    return next(replace(run.batches, batch_size=size, num_workers=0).micro_batches())


def activation_bytes(network: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes that one forward pass keeps for its backward pass, the network's own weights left out."""
    with _StoragesSeen() as seen:
        loss = forward()
    own = [local(parameter.detach()).untyped_storage() for parameter in network.parameters()]
    left_out = {storage.data_ptr() for storage in [*own, loss.untyped_storage()]}
    return sum(storage.nbytes() for storage in seen.alive() if storage.data_ptr() not in left_out)


class _StoragesSeen(TorchDispatchMode):
    """The memory of all inputs and outputs of operations; unlike hooks it sees what selective recomputation keeps."""

    def __init__(self) -> None:
        super().__init__()
        self._storages: dict[int, ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # torch's own form
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, out)):
            if isinstance(tensor, Tensor):
                storage = local(tensor).untyped_storage()
                self._storages[id(storage)] = ref(storage)
        return out

    def alive(self) -> list[torch.UntypedStorage]:
        """Memory that something still keeps."""
        return [storage for weak in self._storages.values() if (storage := weak()) is not None]


def evenly_cut(size: int, *, most: int) -> int:
    """The largest part when `size` is cut into the fewest nearly equal parts of at most `most`."""
    return -(-size // -(-size // most))


def cpu_limit(network: nn.Module, bytes_per_image: int) -> int:
    """Images, at least 1, whose activations fit into this process's share of the free memory beside the optimiser."""
    return max(1, int(CPU_SHARE * _room(network) / max(1, bytes_per_image)))


def _room(network: nn.Module) -> float:
    """Bytes of this process's part of the free memory that gradients and moments leave."""
    trained = trained_parameters(network)
    moments_and_gradients = 3 * sum(local(p.detach()).numel() * p.element_size() for p in trained)
    return free_bytes() / processes_here() - moments_and_gradients


def processes_here() -> int:
    """Processes that share this machine's memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def free_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Free memory of the machine or, where that is less, of the container or below this process's own limit."""
    free, (limit_bytes, _) = psutil.virtual_memory().available, resource.getrlimit(resource.RLIMIT_AS)
    if limit_bytes != resource.RLIM_INFINITY:
        free = min(free, max(0, limit_bytes - psutil.Process().memory_info().vms))
    limit = cgroup / "memory.max"
    if not limit.is_file() or not (text := limit.read_text().strip()).isdecimal():
        return free
    return min(free, max(0, int(text) - int((cgroup / "memory.current").read_text())))
