"""A training as it begins or continues: everything in its place, and as many images at a time as memory holds."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn

from ..checkpoint import load_weights, open_checkpoint
from ..data.batches import Batch, EndlessBatches
from ..diffusion.noise import SeededNoise
from ..distributed import gathered, largest_fitting, make_accelerator, on_main_process, shard
from ..models.unet import recompute
from .config import LoopConfig
from .ema import EMA
from .memory import activation_bytes, cpu_limit, evenly_cut
from .objective import Adaptive, Objective
from .resume import Identity, read_cut, read_resume, starting_checkpoint
from .step import Training, backward


def begun(
    network: nn.Module,
    objective: Objective,
    batches: EndlessBatches,
    config: LoopConfig,
    run_dir: Path,
    *,
    identity: Identity,
    resume: bool,
    rehearsed: bool = False,
) -> Training:
    """A training at its start or where its newest sound checkpoint left it.

    Of the run's directory, at most a damaged checkpoint is touched, and that not if the training is only rehearsed.

    Raises:
        ValueError, FileNotFoundError: as `fit`.
    """
    accelerator = make_accelerator(config.precision)
    batches.share(accelerator.num_processes)
    find = partial(starting_checkpoint, run_dir, identity, resume=resume, leave_damaged=rehearsed)
    found = on_main_process(lambda: None if (start := find()) is None else start.path)
    start = None if found is None else open_checkpoint(found, identity.kind)
    if start is not None:
        load_weights(network, start, "network")
    model = prepared(network, config, accelerator)
    ema = EMA(network, config.ema_decays)
    moments = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    if start is not None:
        learnt = read_resume(start, optimizer=moments, scaler=accelerator.scaler, ema=ema)
        if isinstance(objective, Adaptive) and learnt:
            objective.load_state_dict(learnt)
    training = Training(
        config=config,
        accelerator=accelerator,
        network=network,
        model=model,
        objective=objective,
        optimizer=cast(AcceleratedOptimizer, accelerator.prepare_optimizer(moments)),
        ema=ema,
        batches=batches,
        micro_size=1,
        start_iteration=0 if start is None else start.iteration,
    )
    return replace(training, micro_size=_micro_size(training, {} if start is None else read_cut(start)))


def prepared(network: nn.Module, config: LoopConfig, accelerator: Accelerator) -> nn.Module:
    """The network on its device, as the loop calls it: in its precision, its gradients averaged over all processes.

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


def _micro_size(training: Training, before: Mapping[str, int]) -> int:
    """Samples at a time: as configured, or as many of the share as memory holds on every process.

    before: how a resumed training was cut, and is cut again: sums in another order are not the same to the bit.
    """
    asked, share = training.config.batch.per_process, training.share
    if asked != "auto":
        return min(asked, share)
    if before.get("share") == share:
        return before["micro_size"]
    if training.config.shard and training.accelerator.device.type != "cpu":
        raise ValueError(
            "training.shard cannot look for the batch that fits, because a process that runs out of memory would leave "
            "the others waiting; give --training.batch.per_process"
        )
    if training.accelerator.device.type == "cpu":
        fitting = evenly_cut(share, most=cpu_limit(training.network, bytes_per_image(training)))
    else:
        fitting = largest_fitting(share, partial(_attempt, training))
    on_every_process = {"fitting": torch.tensor([fitting], device=training.accelerator.device)}
    return int(gathered(training.accelerator, on_every_process)["fitting"].min())


def bytes_per_image(training: Training) -> int:
    """Bytes that the forward pass of one image keeps for its backward pass."""
    batch = first_batch(training, 1)
    noise = SeededNoise(training.config.seed, batch.counter.tolist())
    batch = batch.to(training.accelerator.device)
    return activation_bytes(training.network, lambda: training.objective(training.network, batch, noise).total)


def _attempt(training: Training, size: int) -> None:
    """A forward and backward pass of `size` images beside all that an update will need; changes nothing."""
    moments = [torch.zeros_like(parameter) for parameter in training.network.parameters() for _ in range(2)]
    try:
        backward(training, first_batch(training, size), synced=False)
    finally:
        training.optimizer.zero_grad()
    del moments


def first_batch(training: Training, size: int) -> Batch:
    """The first `size` samples of the stream, on the host."""
    return next(replace(training.batches, batch_size=size, num_workers=0).micro_batches())
