"""The state of a training at its start or where it is resumed, with as many images at a time as memory holds."""

import math
import os
import resource
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import psutil
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ..checkpoint import load_weights, open_checkpoint
from ..data.batches import Batch
from ..diffusion.noise import SeededNoise
from ..distributed import gathered, local, make_accelerator, on_main_process, shard, this_process
from ..memory import largest_fitting
from ..models.unet import recompute
from .config import LoopConfig
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
    model = _prepared(run.network, config, accelerator)
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
    state.micro_size = _micro_size(state, {} if start is None else read_resume(start, state))
    return state


def _refuse_beyond_memory(run: TrainingRun, share: int) -> None:
    """Refuse more images of an update, all of which a process reads before it begins, than the memory holds."""
    pixels, free = torch.float32.itemsize * math.prod(run.batches.images.shape), free_bytes() // _processes_here()
    if share * pixels > free:
        raise ValueError(
            f"--training.batch.size {run.config.batch.size} does not fit into memory: the pixels of the {share:,} "
            f"images of an update take {share * pixels:.3g} bytes in each process, and {free:.3g} are free; lower it"
        )


def _prepared(network: nn.Module, config: LoopConfig, accelerator: "Accelerator") -> nn.Module:
    """The network on its device, as the loop calls it: in its precision, its gradients averaged over processes."""
    recompute(network, config.recompute_sizes)
    network.to(accelerator.device)
    if config.channels_last:
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue, reportArgumentType]  # undeclared form
    if config.shard:
        if accelerator.num_processes == 1:
            raise ValueError("training.shard spreads a network over processes, but there is one; start several")
        shard(network, device_type=accelerator.device.type)
    if config.compile:
        network.compile()
    # In evaluation mode, accelerate adds the precision and no DistributedDataParallel.
    return cast(nn.Module, accelerator.prepare_model(network, evaluation_mode=config.shard))


def _micro_size(state: TrainState, before: Mapping[str, int]) -> int:
    """Samples at a time: as configured, or as many of the share as memory holds on every process.

    before: the cut of a resumed training, which is kept: sums in another order differ in their last bits.
    """
    wanted, share, device = state.run.config.batch.per_process, state.share, state.process.device
    if wanted != "auto":
        return min(wanted, share)
    if before.get("share") == share:
        return before["micro_size"]
    if state.run.config.shard and device.type != "cpu":
        raise ValueError(
            "training.shard cannot search for the batch that fits, because a process that runs out of memory would "
            "leave the others waiting; give --training.batch.per_process"
        )
    if device.type == "cpu":
        fitting = evenly_cut(share, most=cpu_limit(state.run.network, bytes_per_image(state)))
    else:
        fitting = largest_fitting(share, partial(try_size, state))
    return int(gathered({"fitting": torch.tensor([fitting])})["fitting"].min())


def bytes_per_image(state: TrainState) -> int:
    """Bytes that the forward pass of one image keeps for its backward pass."""
    return activation_bytes(state.run.network, partial(loss_of_first_image, state))


def loss_of_first_image(state: TrainState) -> Tensor:
    """The loss () of the first sample of the stream."""
    batch = first_batch(state, 1)
    noise = SeededNoise(state.run.config.seed, batch.counter.tolist())
    return state.run.objective(state.run.network, batch.to(state.process.device), noise).total


def try_size(state: TrainState, size: int) -> None:
    """A forward and backward pass of `size` images beside all that an update will need; changes nothing.

    Raises:
        RuntimeError: out of memory.
    """
    moments = [torch.zeros_like(parameter) for parameter in state.run.network.parameters() for _ in range(2)]
    try:
        backward(state, first_batch(state, size), synced=False)
    finally:
        state.optimizer.zero_grad()
    del moments


def first_batch(state: TrainState, size: int) -> Batch:
    """The first `size` samples of the stream, on the host."""
    return next(replace(state.run.batches, batch_size=size, num_workers=0).micro_batches())


def activation_bytes(network: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes that one forward pass keeps for its backward pass, the network's own weights left out."""
    own = {local(parameter.detach()).untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward()
    del loss
    return sum(kept.values())


def evenly_cut(size: int, *, most: int) -> int:
    """The largest part when `size` is cut into the fewest nearly equal parts of at most `most`."""
    return -(-size // -(-size // most))


def cpu_limit(network: nn.Module, bytes_per_image: int) -> int:
    """Images, at least 1, whose activations fit into this process's share of the free memory beside the optimiser."""
    moments_and_gradients = 3 * sum(local(p.detach()).numel() * p.element_size() for p in network.parameters())
    free = CPU_SHARE * (free_bytes() / _processes_here() - moments_and_gradients)
    return max(1, int(free / max(1, bytes_per_image)))


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
