"""The one training loop. It knows of batches, gradients, averages and checkpoints, and nothing of diffusion.

Everything random in iteration n is a function of (seed, n) and of the samples' positions in the stream, so a resumed
run, or one on another number of processes, continues as if never stopped without any generator's state being kept.
"""

import logging
import math
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
from ..noise import SeededNoise, sample_seed
from .ema import EMA
from .log import TrainingLog, remedy
from .resume import read_resume, write_resume
from .stopping import stop_requests
from .tracking import Tracker, WandbMode

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long, how fast and how carefully to train. One of `iterations` and `images` is the budget."""

    iterations: int | None = None
    """Budget in optimiser updates."""
    images: int | None = None
    """Budget in images seen, over all processes; rounded up to whole iterations."""
    batch_size: int = 128
    """Images per update over all processes and micro-batches (ADM: 256 to 2048)."""
    accumulation: int = 1
    """Micro-batches per update in each process."""
    learning_rate: float = 1e-4
    """Of AdamW (ADM table 11)."""
    anneal: Literal["none", "linear"] = "none"
    """Learning rate kept, or brought linearly to 0 at the end of the budget (ADM's classifiers)."""
    weight_decay: float = 0.0
    """Decoupled, on all parameters (ADM: 0 for diffusion, 0.05 to 0.2 for classifiers)."""
    max_grad_norm: float | None = None
    """Gradients longer than this are scaled down to it; null leaves them alone, as published."""
    ema_decays: tuple[float, ...] = (0.9999,)
    """Averages kept, each under its name; previews and later commands take the slowest. Empty: none (classifiers)."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the network's arithmetic; auto takes bfloat16 on GPUs that have it, else float32."""
    seed: int = 0
    """Of initial weights, data order, timesteps and noise."""
    log_every_iterations: int = 50
    """Between lines of metrics.jsonl, which average over this many."""
    save_every_iterations: int = 5000
    """Between checkpoints; the end of the budget and SIGTERM or Ctrl-C save as well."""
    keep_checkpoints: int = 3
    """Newest checkpoints kept."""
    observe_every_iterations: int = 5000
    """Between previews (diffusion) or held-out measurements (classifiers)."""
    wandb: WandbMode = "off"
    """Weights & Biases: off, online, or offline for a network-less machine."""
    wandb_project: str = "guided-diffusion"
    """Project its runs are filed under."""

    def __post_init__(self) -> None:
        if (self.iterations is None) == (self.images is None):
            raise ValueError(
                "a training run needs a budget: give exactly one of --training.iterations and --training.images"
            )
        if self.total_iterations < 1:
            budget = self.images if self.iterations is None else self.iterations
            raise ValueError(f"the budget must be at least 1, got {budget}")
        for name in ("batch_size", "accumulation", "log_every_iterations", "save_every_iterations",
                     "keep_checkpoints", "observe_every_iterations"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name} must be at least 1, got {getattr(self, name)}")
        wrong = [decay for decay in self.ema_decays if not 0 < decay < 1]
        if wrong:
            raise ValueError(f"training.ema_decays lie between 0 and 1, such as 0.9999; got {wrong[0]}")

    @property
    def total_iterations(self) -> int:
        """The budget in iterations."""
        return self.iterations if self.iterations is not None else math.ceil((self.images or 0) / self.batch_size)


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
    accelerator = Accelerator(mixed_precision=_precision(config), cpu=not torch.accelerator.is_available())
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
                sample_seed(config.seed, iteration * accelerator.num_processes + accelerator.process_index)
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
            if observe is not None and (is_last or iteration % config.observe_every_iterations == 0):
                if accelerator.is_main_process:
                    with ema.applied() as averaged:
                        log.write_observed(iteration, observe(averaged, iteration))
                accelerator.wait_for_everyone()
            stopping = _any_process(accelerator, stop_requested(), iteration)
            if is_last or stopping or iteration % config.save_every_iterations == 0:
                save()
            if stopping:
                break
        log.end(iteration, start_iteration=0 if start is None else start.iteration)


def _refuse_broken_weights(network: nn.Module, iteration: int, run_dir: Path) -> None:
    """Checkpoints come between the lines of the log, and one of broken weights would push the sound ones out."""
    if not all(bool(parameter.isfinite().all()) for parameter in network.parameters()):
        raise ValueError(f"the weights are not finite at iteration {iteration}; {remedy(run_dir)}")


def _precision(config: LoopConfig) -> str:
    has_bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
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
