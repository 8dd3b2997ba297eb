"""The state of a training at its start or where it is resumed, with as many images at a time as memory holds."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from ..checkpoint import load_weights, open_checkpoint
from ..data.batches import Batch
from ..diffusion.noise import SeededNoise
from ..distributed import gathered, largest_fitting, make_accelerator, on_main_process, shard, this_process
from ..models.unet import recompute
from .config import LoopConfig
from .ema import EMA
from .memory import activation_bytes, cpu_limit, evenly_cut
from .resume import read_resume, starting_checkpoint
from .run import TrainingRun, TrainState
from .step import backward

if TYPE_CHECKING:
    from ..distributed import Accelerator


def set_up(run: TrainingRun, *, leave_damaged: bool = False) -> TrainState:
    """The state at the start, or at the newest sound checkpoint.

    Writes nothing; a damaged checkpoint is renamed unless it is to be left.
    """
    config, accelerator = run.config, make_accelerator(run.config.precision)
    run.batches.share(this_process().world_size)
    path = on_main_process(partial(starting_checkpoint, run, leave_damaged=leave_damaged))
    start = None if path is None else open_checkpoint(path, run.kind)
    if start is not None:
        load_weights(run.network, start, "network")
    model = _prepared(run.network, config, accelerator)
    ema = EMA(run.network, config.ema_decays)
    parameters = run.network.parameters()
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    cut: Mapping[str, int] = {}
    if start is not None:
        cut = read_resume(start, run, optimizer=optimizer, scaler=accelerator.scaler, ema=ema)
    iteration = 0 if start is None else start.iteration
    state = TrainState(
        run=run, process=this_process(), accelerator=accelerator, model=model,
        optimizer=cast(torch.optim.Optimizer, accelerator.prepare_optimizer(optimizer)), ema=ema, micro_size=1,
        start_iteration=iteration, iteration=iteration, saved_iteration=iteration,
    )  # fmt: skip
    state.micro_size = _micro_size(state, cut)
    return state


def _prepared(network: nn.Module, config: LoopConfig, accelerator: "Accelerator") -> nn.Module:
    """The network on its device, as the loop calls it: in its precision, its gradients averaged over processes.

    Raises:
        ValueError: sharding with one process; a size to recompute that the network does not have.
    """
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
    network, objective, batch = state.run.network, state.run.objective, first_batch(state, 1)
    noise = SeededNoise(state.run.config.seed, batch.counter.tolist())
    batch = batch.to(state.process.device)
    return activation_bytes(network, lambda: objective(network, batch, noise).total)


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
