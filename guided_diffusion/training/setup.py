"""The state of a training at its start or where it is resumed, its network as fast as the device and budget allow."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from ..checkpoint import load_weights, open_checkpoint
from ..compilation import COMPILING_SECONDS, CallCost, call_cost, can_repay, compile_or_warn, repays
from ..distributed import make_accelerator, on_main_process, print_from_main, shard, this_process
from ..memory import first_fitting, keep_freed_memory
from ..models.memory_format import lay_out, memory_format_of
from ..models.unet import level_sizes, recompute
from .capacity import fitting_size, free_bytes, loss_of_first_image, processes_here, try_size
from .ema import EMA
from .frozen_parts import freeze_others
from .resume import data_record, read_resume, starting_checkpoint
from .run import TrainingRun, TrainState
from .saving import largest_weight
from .source import Source

if TYPE_CHECKING:
    from ..distributed import Accelerator

_logger = logging.getLogger(__name__)


def set_up(run: TrainingRun, *, leave_damaged: bool = False) -> TrainState:
    """The state at the start, or at the newest sound checkpoint.

    Writes nothing; a damaged checkpoint is renamed unless it is to be left.

    Raises:
        ValueError: a batch that does not divide over the processes or exceeds their memory, and as
            `starting_checkpoint`.
    """
    config, accelerator = run.config, make_accelerator(run.config.precision)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    _refuse_beyond_memory(run, run.batches.share(this_process().world_size))
    data = on_main_process(partial(data_record, run.batches.images))
    path = on_main_process(partial(starting_checkpoint, run, data, leave_damaged=leave_damaged))
    start = None if path is None else open_checkpoint(path, run.kind)
    if start is not None:
        load_weights(run.network, start, "network")
    lineage = _begin_from(run.source, run) if start is None and run.source is not None else start and start.lineage
    freeze_others(run.network, config.train_only)
    cost = _cost_to_compile(run, accelerator.device)
    model = _prepared(run, accelerator, compiled=cost is not None)
    parameters = run.network.parameters()
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    iteration = 0 if start is None else start.iteration
    state = TrainState(
        run=run, process=this_process(), accelerator=accelerator, model=model,
        optimizer=cast(torch.optim.Optimizer, accelerator.prepare_optimizer(optimizer)),
        ema=EMA(run.network, config.averages), micro_size=1,
        recomputed=() if config.recompute_sizes == "auto" else config.recompute_sizes,
        start_iteration=iteration, iteration=iteration, data=data, lineage=lineage or (),
        saved_iteration=-1 if start is None and config.total_iterations == 0 else iteration,
        largest_weight=largest_weight(run.network), largest_loss=torch.full((), torch.nan, device=accelerator.device),
    )  # fmt: skip
    state.micro_size = fitting_size(state, {} if start is None else read_resume(start, state))
    if cost is not None:
        _compile(state, cost)
    return state


def _begin_from(source: Source, run: TrainingRun) -> Sequence[Mapping[str, Any]]:
    """Fill the network with the weights of the source, say what was adapted, and return the lineage."""
    weights, changes = source.adapted(run.model, run.network.state_dict())
    run.network.load_state_dict(weights)
    record = source.record
    print_from_main(f"begins from {record['name']}, weights {record['weights']} of iteration {record['iteration']:,}")
    for line in [*source.notes, *changes]:
        print_from_main(f"  {line}")
    return [*source.lineage, {**record, "changes": changes}]


def _refuse_beyond_memory(run: TrainingRun, share: int) -> None:
    """Refuse more images of an update, all of which a process reads before it begins, than the memory holds."""
    pixels, free = torch.float32.itemsize * math.prod(run.batches.images.shape), free_bytes() // processes_here()
    if share * pixels > free:
        raise ValueError(
            f"--training.batch.size {run.config.batch.size} does not fit into memory: the pixels of the {share:,} "
            f"images of an update take {share * pixels:.3g} bytes in each process, and {free:.3g} are free; lower it"
        )


def _cost_to_compile(run: TrainingRun, device: torch.device) -> CallCost | None:
    """The cost of computing this process's share of an update, if the network is to be compiled; None if not."""
    wanted = run.config.compile
    if wanted in ("off", False) or (wanted == "auto" and not can_repay(device)):
        return None
    if wanted == "auto" and run.config.shard:
        print_from_main(
            "the network is not compiled, because it is sharded; --training.compile on compiles it nevertheless"
        )
        return None
    run.network.to(device)
    recompute(run.network, tuple(level_sizes(run.network)))  # of memory nothing is known yet; costs stay in proportion
    one = call_cost(lambda: loss_of_first_image(run, device).backward())
    run.network.zero_grad()
    cost = replace(one, flops=one.flops * run.batches.share(this_process().world_size))
    if wanted in ("on", True) or repays(cost, run.config.total_iterations, device):
        return cost
    print_from_main("the network is not compiled: the training is too short to repay it (--training.compile on)")
    return None


def _compile(state: TrainState, cost: CallCost) -> None:
    """Compile the network for the sizes of the micro-batches, by a forward and backward pass of each."""
    print_from_main(f"compiling the network: about {cost.kernels * COMPILING_SECONDS:.0f} s (--training.compile off)")
    if state.recomputed:  # dynamo cannot split a graph with checkpoints at the buckets of DistributedDataParallel
        torch._dynamo.config.optimize_ddp = False
    begin, sizes = time.perf_counter(), {state.micro_size, state.share % state.micro_size} - {0}

    def trial() -> None:
        for size in sizes:
            try_size(state, size)

    def attempt(is_compiled: bool) -> None:
        if is_compiled and compile_or_warn(state.run.network, trial):
            print_from_main(f"compiled the network in {time.perf_counter() - begin:.0f} s")

    if not first_fitting([True, False], attempt):
        _logger.warning("there is no memory for the compiled network, which runs uncompiled, more slowly")


def _prepared(run: TrainingRun, accelerator: "Accelerator", *, compiled: bool) -> nn.Module:
    """The network on its device, as the loop calls it: in its precision, its gradients averaged over processes."""
    network, config = run.network, run.config
    recompute(network, () if config.recompute_sizes == "auto" else config.recompute_sizes)
    network.to(accelerator.device)
    if not config.shard:  # FSDP takes contiguous weights alone
        layout = memory_format_of(accelerator.device, run.batches.images.image_size, compiled=compiled)
        lay_out(network, layout)
    else:
        if accelerator.num_processes == 1:
            raise ValueError("training.shard spreads a network over processes, but there is one; start several")
        shard(network, device_type=accelerator.device.type)
    # In evaluation mode, accelerate adds the precision and no DistributedDataParallel.
    return cast(nn.Module, accelerator.prepare_model(network, evaluation_mode=config.shard))
