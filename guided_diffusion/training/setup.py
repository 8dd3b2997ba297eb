"""The state of a training at its start or where it is resumed, with as many images at a time as memory holds."""

import math
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from weakref import ref

import psutil
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..checkpoint import load_weights, open_checkpoint
from ..compilation import COMPILING_SECONDS, CallCost, call_cost, can_repay, compile_or_warn, repays, uncompiled
from ..data.batches import Batch
from ..diffusion.noise import SeededNoise
from ..distributed import gathered, local, make_accelerator, on_main_process, shard, this_process
from ..memory import first_fitting, halves
from ..models.memory_format import memory_format_of
from ..models.recomputation import Recomputed
from ..models.unet import level_sizes, recompute
from .ema import EMA
from .resume import data_record, read_resume, starting_checkpoint
from .run import TrainingRun, TrainState
from .saving import largest_weight
from .step import backward

if TYPE_CHECKING:
    from ..distributed import Accelerator

CPU_SHARE = 0.7
"""Share of the free memory that activations may take on a CPU, where a process that runs out is killed."""


def set_up(run: TrainingRun, *, leave_damaged: bool = False) -> TrainState:
    """The state at the start, or at the newest sound checkpoint.

    Writes nothing; a damaged checkpoint is renamed unless it is to be left.

    Raises:
        ValueError: a batch that does not divide over the processes or exceeds their memory, and as
            `starting_checkpoint`.
    """
    config, accelerator = run.config, make_accelerator(run.config.precision)
    _refuse_beyond_memory(run, run.batches.share(this_process().world_size))
    data = on_main_process(partial(data_record, run.batches.images))
    path = on_main_process(partial(starting_checkpoint, run, data, leave_damaged=leave_damaged))
    start = None if path is None else open_checkpoint(path, run.kind)
    if start is not None:
        load_weights(run.network, start, "network")
    cost = _cost_to_compile(run, accelerator.device)
    model = _prepared(run, accelerator, compiled=cost is not None)
    parameters = run.network.parameters()
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    iteration = 0 if start is None else start.iteration
    state = TrainState(
        run=run, process=this_process(), accelerator=accelerator, model=model,
        optimizer=cast(torch.optim.Optimizer, accelerator.prepare_optimizer(optimizer)),
        ema=EMA(run.network, config.ema_decays), micro_size=1,
        start_iteration=iteration, iteration=iteration, data=data, saved_iteration=iteration,
        largest_weight=largest_weight(run.network), largest_loss=torch.full((), torch.nan, device=accelerator.device),
    )  # fmt: skip
    state.micro_size = _fitting_size(state, {} if start is None else read_resume(start, state))
    if cost is not None:
        _compile(state, cost)
    return state


def _refuse_beyond_memory(run: TrainingRun, share: int) -> None:
    """Refuse more images of an update, all of which a process reads before it begins, than the memory holds."""
    pixels, free = torch.float32.itemsize * math.prod(run.batches.images.shape), free_bytes() // _processes_here()
    if share * pixels > free:
        raise ValueError(
            f"--training.batch.size {run.config.batch.size} does not fit into memory: the pixels of the {share:,} "
            f"images of an update take {share * pixels:.3g} bytes in each process, and {free:.3g} are free; lower it"
        )


def _cost_to_compile(run: TrainingRun, device: torch.device) -> CallCost | None:
    """The cost of computing this process's share of an update, if the network is to be compiled; None if not."""
    wanted = run.config.wanted_compile
    if wanted == "off" or (wanted == "auto" and not can_repay(device)):
        return None
    if wanted == "auto" and run.config.shard:
        _say("the network is not compiled, because it is sharded; --training.compile on compiles it nevertheless")
        return None
    run.network.to(device)
    one = call_cost(lambda: _loss_of_first_image(run, device).backward())
    run.network.zero_grad()
    cost = replace(one, flops=one.flops * run.batches.share(this_process().world_size))
    if wanted == "on" or repays(cost, run.config.total_iterations, device):
        return cost
    _say("the network is not compiled: the training is too short to repay it (--training.compile on)")
    return None


def _compile(state: TrainState, cost: CallCost) -> None:
    """Compile the network for the sizes of the micro-batches, by a forward and backward pass of each."""
    _say(f"compiling the network: about {cost.kernels * COMPILING_SECONDS:.0f} s (--training.compile off)")
    begin, sizes = time.perf_counter(), {state.micro_size, state.share % state.micro_size} - {0}

    def trial() -> None:
        for size in sizes:
            try_size(state, size)

    if compile_or_warn(state.run.network, trial):
        _say(f"compiled the network in {time.perf_counter() - begin:.0f} s")


def _say(text: str) -> None:
    if this_process().is_main:
        print(text, file=sys.stderr)


def _prepared(run: TrainingRun, accelerator: "Accelerator", *, compiled: bool) -> nn.Module:
    """The network on its device, as the loop calls it: in its precision, its gradients averaged over processes."""
    network, config = run.network, run.config
    recompute(network, () if config.recompute_sizes == "auto" else config.recompute_sizes)
    network.to(accelerator.device)
    if not config.shard:  # FSDP takes contiguous weights alone
        layout = memory_format_of(accelerator.device, run.batches.images.image_size, compiled=compiled)
        network.to(memory_format=layout)  # pyright: ignore[reportCallIssue, reportArgumentType]  # undeclared form
    else:
        if accelerator.num_processes == 1:
            raise ValueError("training.shard spreads a network over processes, but there is one; start several")
        shard(network, device_type=accelerator.device.type)
    # In evaluation mode, accelerate adds the precision and no DistributedDataParallel.
    return cast(nn.Module, accelerator.prepare_model(network, evaluation_mode=config.shard))


def _fitting_size(state: TrainState, before: Mapping[str, int]) -> int:
    """Samples at a time: as configured, or as many of the share as memory holds on every process.

    What is to be recomputed for that is chosen too. before: the cut of a resumed training, which is kept: sums in
    another order differ in their last bits.
    """
    config, share, device = state.run.config, state.share, state.process.device
    known = before["micro_size"] if before.get("share") == share else None
    if config.batch.per_process != "auto":
        known = min(config.batch.per_process, share)
    if device.type == "cpu" or config.shard:
        if known is None and device.type != "cpu":
            raise ValueError(
                "training.shard cannot search for the batch that fits, because a process that runs out of memory would "
                "leave the others waiting; give --training.batch.per_process"
            )
        fitting = known or _cpu_size(state)
    else:
        fitting = size_by_trial(state, [known] if known else halves(share))
        fitting = known or evenly_cut(share, most=fitting)
    return known or int(gathered({"fitting": torch.tensor([fitting])})["fitting"].min())


def _cpu_size(state: TrainState) -> int:
    """Images whose activations fit; since fewer at a time cost nothing here, only one that does not is recomputed."""
    network, most = state.run.network, 0
    for recomputed in _recomputations(state, everything=True):
        recompute(network, recomputed)
        image = bytes_per_image(state)
        most = cpu_limit(network, image)
        if most * image <= CPU_SHARE * _room(network):
            break
    return evenly_cut(state.share, most=most)


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
    size, recomputed = first_fitting(candidates, attempt)
    if recomputed and state.run.config.recompute_sizes == "auto":
        _say(f"memory is short: the backward pass computes again {recomputed} (--training.recompute_sizes)")
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
    return activation_bytes(state.run.network, partial(loss_of_first_image, state))


def loss_of_first_image(state: TrainState) -> Tensor:
    """The loss () of the first sample of the stream."""
    return _loss_of_first_image(state.run, state.process.device)


def _loss_of_first_image(run: TrainingRun, device: torch.device) -> Tensor:
    batch = first_batch(run, 1)
    noise = SeededNoise(run.config.seed, batch.counter.tolist())
    with uncompiled(run.network):
        return run.objective(run.network, batch.to(device), noise).total


def try_size(state: TrainState, size: int) -> None:
    """A forward and backward pass of `size` images beside all that an update will need; changes nothing.

    Raises:
        RuntimeError: out of memory.
    """
    moments = [torch.zeros_like(parameter) for parameter in state.run.network.parameters() for _ in range(2)]
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
    moments_and_gradients = 3 * sum(local(p.detach()).numel() * p.element_size() for p in network.parameters())
    return free_bytes() / _processes_here() - moments_and_gradients


def _processes_here() -> int:
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
