"""The one training loop. It knows of batches, gradients, averages and checkpoints, and nothing of diffusion.

Everything random in iteration n is a function of (seed, n) and of the samples' positions in the stream, so a resumed
run, or one on another number of processes, continues as if never stopped without any generator's state being kept.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..checkpoint import Checkpoint, latest, load_weights, open_checkpoint, prune, save_checkpoint
from ..config import differences
from ..data.batches import Batch, EndlessBatches
from ..device import has_accelerator
from ..noise import SeededNoise, sample_seed
from .ema import EMA
from .log import TrainingLog, remedy
from .loop_config import LoopConfig
from .resume import read_resume, write_resume
from .stopping import stop_requests
from .tracking import Tracker

DROPOUT = 1 << 32
"""Added to the seed, so that dropout's generator is not that of the training sample with the iteration's number."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Losses:
    """What an objective returns for a micro-batch."""

    total: Tensor
    """() what is minimised."""
    logged: Mapping[str, Tensor]
    """() each; their means over the batch are logged."""


class Objective(Protocol):
    """What a network is trained for."""

    def __call__(self, network: nn.Module, batch: Batch, noise: SeededNoise) -> Losses:
        """Losses of one micro-batch; whatever is random comes from `noise`, which holds one generator per sample."""
        ...


Observe = Callable[[nn.Module, int], Mapping[str, float]]
"""(network with averaged weights, iteration) -> metrics to log; it may write files such as previews."""


@dataclass(frozen=True)
class Identity:
    """What a checkpoint says of the model it holds, beside its weights."""

    kind: str
    model: Mapping[str, Any]
    """Plain values; a resumed run must have the same."""
    run: Mapping[str, Any]
    """The whole run config, plain."""


def fit(
    network: nn.Module,
    objective: Objective,
    batches: EndlessBatches,
    config: LoopConfig,
    run_dir: Path,
    *,
    identity: Identity,
    observe: Observe | None = None,
    resume: bool = False,
) -> None:
    """Train `network` until the budget is spent or SIGTERM or SIGINT asks to stop; either way the last state is saved.

    Runs as one process or as many (`accelerate launch`, `torchrun`); the batch size is that of all together.

    Raises:
        ValueError: run_dir holds checkpoints and resume is False, or they are of another model; a batch size that does
            not divide; a loss or weights that are not finite.
    """
    # Without `cpu`, accelerate takes each of several processes without accelerators for a run of its own.
    accelerator = Accelerator(mixed_precision=_precision(config), cpu=not has_accelerator())
    start = _starting_checkpoint(run_dir, identity, resume)
    iteration = 0 if start is None else start.iteration
    stream = batches.micro_batches(
        start_iteration=iteration,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        accumulation=config.accumulation,
    )
    if accelerator.is_main_process:
        run_dir.mkdir(parents=True, exist_ok=True)

    if start is not None:
        load_weights(network, start, "network")
    network.to(accelerator.device)
    ema = EMA(network, config.ema_decays)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    model, optimizer = accelerator.prepare(network, optimizer)
    if start is not None:
        read_resume(start, optimizer=optimizer.optimizer, scaler=accelerator.scaler, ema=ema)

    tracker = None
    if accelerator.is_main_process:
        tracker = Tracker(
            run_dir,
            start_iteration=iteration,
            wandb_mode=config.wandb,
            wandb_project=config.wandb_project,
            run=identity.run,
        )
    log = TrainingLog(
        run_dir,
        total_iterations=config.total_iterations,
        start_iteration=iteration,
        batch_size=config.batch_size,
        tracker=tracker,
        mean_over_processes=lambda values: _reduced(accelerator, values, "mean"),
    )

    def save() -> None:
        _refuse_broken_weights(network, iteration, run_dir)
        if accelerator.is_main_process:
            save_checkpoint(
                run_dir,
                kind=identity.kind,
                iteration=iteration,
                model=identity.model,
                run=identity.run,
                weights={"network": network.state_dict(), **ema.state_dicts()},
                write_resume=lambda path: write_resume(path, optimizer=optimizer.optimizer, scaler=accelerator.scaler),
            )
            prune(run_dir, keep=config.keep_checkpoints)
        accelerator.wait_for_everyone()

    with log, stop_requests() as stop_requested:
        network.train()
        while iteration < config.total_iterations:
            # Dropout alone uses the global generator; reseeding it makes iteration n the same after a resume.
            torch.manual_seed(
                sample_seed(DROPOUT + config.seed, iteration * accelerator.num_processes + accelerator.process_index)
            )
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(config, iteration)
            for micro in range(config.accumulation):
                batch = next(stream)
                noise = SeededNoise(config.seed, batch.counter.tolist())
                with _gradients_synced(accelerator, model, synced=micro == config.accumulation - 1):
                    losses = objective(model, batch.to(accelerator.device), noise)
                    accelerator.backward(losses.total / config.accumulation)
                log.add({"loss": losses.total, **losses.logged})
            if config.max_grad_norm is not None:
                accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            ema.update()
            iteration += 1

            log.advance()
            is_last = iteration == config.total_iterations
            if is_last or iteration % config.log_every_iterations == 0:
                log.write(iteration)
            save_is_due = is_last or iteration % config.save_every_iterations == 0
            if save_is_due:
                save()
            if observe is not None and (is_last or iteration % config.observe_every_iterations == 0):
                if accelerator.is_main_process:
                    with ema.applied() as averaged:
                        log.write_observed(iteration, observe(averaged, iteration))
                accelerator.wait_for_everyone()
            if _any_process(accelerator, stop_requested(), iteration):
                if not save_is_due:
                    save()
                break
        log.end(iteration, start_iteration=0 if start is None else start.iteration)


def _refuse_broken_weights(network: nn.Module, iteration: int, run_dir: Path) -> None:
    """Checkpoints come between the lines of the log, and one of broken weights would push the sound ones out."""
    if not all(bool(parameter.isfinite().all()) for parameter in network.parameters()):
        raise ValueError(f"the weights are not finite at iteration {iteration}; {remedy(run_dir)}")


def _precision(config: LoopConfig) -> str:
    has_bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    wanted = config.precision if config.precision != "auto" else "bfloat16" if has_bfloat16 else "float32"
    return {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[wanted]


def _starting_checkpoint(run_dir: Path, identity: Identity, resume: bool) -> Checkpoint | None:
    found = latest(run_dir)
    if found is None:
        return None
    if not resume:
        raise ValueError(f"{found} is there already: continue that run with --resume auto, or choose another --out")
    checkpoint = open_checkpoint(found, identity.kind)
    changed = differences(checkpoint.model, identity.model)
    if changed:
        raise ValueError(
            f"cannot resume {found}: its model differs from the one asked for in {'; '.join(changed)}. "
            f"Give the same settings, or choose another --out"
        )
    otherwise = differences(checkpoint.run, identity.run)
    if otherwise:
        _logger.warning("resuming %s with other settings: %s", found, "; ".join(otherwise))
    return checkpoint


def _learning_rate(config: LoopConfig, iteration: int) -> float:
    remaining = 1 - iteration / config.total_iterations if config.anneal == "linear" else 1.0
    return config.learning_rate * remaining


def _gradients_synced(accelerator: Accelerator, model: nn.Module, *, synced: bool) -> AbstractContextManager[Any]:
    """Processes exchange gradients once per update, with its last micro-batch."""
    return nullcontext() if synced else accelerator.no_sync(model)


def _any_process(accelerator: Accelerator, requested: bool, iteration: int) -> bool:
    """Whether any process was asked to stop, so that all stop at the same iteration."""
    if accelerator.num_processes == 1:
        return requested
    if accelerator.device.type != "cpu" and iteration % 10:  # asking the others makes the host wait for the device
        return False
    flag = torch.tensor(float(requested), device=accelerator.device)
    return bool(_reduced(accelerator, flag, "sum") > 0)


def _reduced(accelerator: Accelerator, values: Tensor, reduction: Literal["sum", "mean"]) -> Tensor:
    return cast(Tensor, accelerator.reduce(values, reduction=reduction))  # declared to give mappings as well
