"""The one training loop. It knows of batches, averages and checkpoints, and nothing of diffusion.

Everything random in iteration n is a function of (seed, n) and of the samples' positions in the stream, so a resumed
run, or one on another number of processes, continues as if never stopped without any generator's state being kept.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..checkpoint import save_checkpoint
from ..config import to_plain
from ..data.batches import Batch, EndlessBatches
from ..data.crops import DamagedImageError
from ..distributed import full_state, local, reduced
from ..files import atomic_write
from ..run_directory import claimed, mark_best, prune, read_best
from .config import LoopConfig
from .log import TrainingLog, remedy
from .objective import Adaptive, Objective, Observe
from .resume import Identity, optimizer_tensors, write_resume
from .setup import begun
from .step import Training, update
from .stop_request import InterruptedWork, StopRequest, stop_requests
from .tracking import Tracker, tensorboard, wandb


def fit(
    network: nn.Module,
    objective: Objective,
    batches: EndlessBatches,
    config: LoopConfig,
    run_dir: Path,
    *,
    identity: Identity,
    observe: Observe | None = None,
    best_by: str | None = None,
    resume: bool = False,
) -> None:
    """Train `network` until the budget is spent or SIGTERM or SIGINT asks to stop; either way the last state is saved.

    Runs as one process or as many (`accelerate launch`, `torchrun`); the batch size is that of all together.

    best_by: the metric of `observe`, the larger the better, that config.stop_after_worse watches.

    Raises:
        ValueError: run_dir holds checkpoints and resume is False, or they are of another model; a batch size that does
            not divide; too many losses or gradients that are not finite, or weights that are not.
        OSError: the data or the disk failed; the last checkpoint is whole.
    """
    if config.stop_after_worse is not None and (best_by is None or observe is None):
        raise ValueError(
            "training.stop_after_worse needs a held-out measurement, and this training makes none; leave it out"
        )
    training = begun(network, objective, batches, config, run_dir, identity=identity, resume=resume)
    iteration, last = training.start_iteration, config.total_iterations
    saved_at = iteration
    plateau = _is_plateau(config, run_dir, iteration)

    def save() -> None:
        nonlocal saved_at
        if saved_at != iteration:
            _save(training, run_dir=run_dir, identity=identity, iteration=iteration)
            saved_at = iteration

    def watch(observe: Observe) -> None:
        nonlocal plateau
        metrics = _observed(training, observe, iteration=iteration, log=log, stop=stop)
        if best_by is not None and config.stop_after_worse is not None:
            if _is_best(training, metrics.get(best_by), run_dir):
                save()
                _mark_best(training, run_dir, iteration, metric=best_by, value=metrics.get(best_by))
            plateau = _is_plateau(config, run_dir, iteration)
        log.write_observed(iteration, metrics)  # last: what this line tells of is not measured again

    with ExitStack() as stack:
        if training.accelerator.is_main_process:
            stack.enter_context(claimed(run_dir))
        log = stack.enter_context(_open_log(training, run_dir, identity))
        stop = stack.enter_context(stop_requests())
        observation_is_due = iteration > 0 and _is_due(iteration, config.observe_every_iterations, last)
        if observe is not None and observation_is_due and _lacks(training, log):
            watch(observe)  # the run was stopped between a checkpoint and what was to be measured there
        network.train()
        stream = training.iterations()
        while iteration < last and not plateau:
            try:
                micro_batches = next(stream)
                updated = update(training, micro_batches, iteration=iteration, stop=stop)
            except InterruptedWork:
                break
            except (OSError, DamagedImageError):
                if training.accelerator.num_processes == 1:  # several would wait for the one that has no data
                    save()
                raise
            iteration += 1
            log.add(updated)
            if log.broken_in_a_row >= config.max_skipped:
                raise ValueError(_not_finite(training, micro_batches, run_dir=run_dir, iteration=iteration))
            if updated.stop_requested or _is_due(iteration, config.log_every_iterations, last):
                log.write(iteration)
            if _is_due(iteration, config.save_every_iterations, last):
                save()
            if updated.stop_requested:
                break
            if observe is not None and _is_due(iteration, config.observe_every_iterations, last):
                watch(observe)
        save()
        log.say(_ending(run_dir, iteration, last, start=training.start_iteration, best_by=best_by if plateau else None))


def _ending(run_dir: Path, iteration: int, last: int, *, start: int, best_by: str | None) -> str:
    """How a run ended, in words. best_by: the metric that no longer rose, None if that is not why."""
    best = read_best(run_dir)
    if best_by is not None and best is not None:
        return f"stopped at iteration {iteration}: {best_by} was best, {best[1]:.4g}, at {best[0]}"
    if start >= last:
        return f"{run_dir} is at iteration {iteration} of {last}: nothing to do"
    if iteration < last:
        return f"stopped at iteration {iteration}, saved; continue with --resume auto"
    return f"finished at iteration {iteration}"


def _is_due(iteration: int, every: int, last: int) -> bool:
    return iteration % every == 0 or iteration == last


def _lacks(training: Training, log: TrainingLog) -> bool:
    """Whether what was to be measured at the start of a resumed run is not recorded; on every process."""
    lacks = log.tracker is not None and not log.tracker.has_observed(training.start_iteration)
    return bool(reduced(training.accelerator, torch.tensor(float(lacks)), "sum") > 0)


def _open_log(training: Training, run_dir: Path, identity: Identity) -> TrainingLog:
    config, accelerator, start = training.config, training.accelerator, training.start_iteration
    tracker = None
    if accelerator.is_main_process:
        others = [tensorboard(run_dir, start_iteration=start)] if config.tensorboard else []
        if config.wandb != "off":
            run = to_plain(identity.run)
            others.append(wandb(run_dir, mode=config.wandb, project=config.wandb_project, run=run))
        tracker = Tracker(run_dir, start_iteration=start, others=others)
    return TrainingLog(
        run_dir,
        total_iterations=config.total_iterations,
        start_iteration=start,
        batch_size=config.batch.size,
        tracker=tracker,
        mean_over_processes=lambda values: reduced(accelerator, values, "mean"),
    )


def _save(training: Training, *, run_dir: Path, identity: Identity, iteration: int) -> None:
    """Write a checkpoint and delete those that are not to be kept."""
    accelerator, config = training.accelerator, training.config
    _refuse_broken_weights(training, iteration, run_dir)
    # Of weights that are spread over processes, every process takes part in putting them together.
    weights = {"network": full_state(training.network.state_dict()), **training.ema.state_dicts()}
    moments = optimizer_tensors(training.optimizer)
    learnt = training.objective.state_dict() if isinstance(training.objective, Adaptive) else {}
    cut = {"share": training.share, "micro_size": training.micro_size}
    if accelerator.is_main_process:
        save_checkpoint(
            run_dir,
            kind=identity.kind,
            iteration=iteration,
            model=to_plain(identity.model),
            run=to_plain(identity.run),
            weights=weights,
            write_resume=partial(write_resume, moments=moments, scaler=accelerator.scaler, learnt=learnt, cut=cut),
        )
        prune(run_dir, keep=config.keep_checkpoints, keep_every=config.keep_every_iterations)
    accelerator.wait_for_everyone()


def _refuse_broken_weights(training: Training, iteration: int, run_dir: Path) -> None:
    """A checkpoint of broken weights would push the sound ones out."""
    if not all(bool(local(parameter.detach()).isfinite().all()) for parameter in training.network.parameters()):
        raise ValueError(f"the weights are not finite at iteration {iteration}; {remedy(run_dir)}")


def _observed(
    training: Training, observe: Observe, *, iteration: int, log: TrainingLog, stop: StopRequest
) -> Mapping[str, float]:
    """What the main process measures with the averaged weights; nothing if a request to stop cuts it short."""
    metrics: Mapping[str, float] = {}
    if training.config.shard:  # a network spread over processes computes on all of them, and none may leave early
        with training.ema.applied() as averaged:
            metrics = observe(averaged, iteration)
    elif training.accelerator.is_main_process:
        with training.ema.applied() as averaged:
            try:
                with stop.interrupting():
                    metrics = observe(averaged, iteration)
            except InterruptedWork:
                log.say(f"the measurement at iteration {iteration} is left out, since the run is asked to stop")
    training.accelerator.wait_for_everyone()
    return metrics


def _is_best(training: Training, value: float | None, run_dir: Path) -> bool:
    """Whether the main process's value is the best so far; on every process."""
    best = read_best(run_dir)
    is_best = value is not None and training.accelerator.is_main_process and (best is None or value > best[1])
    return bool(reduced(training.accelerator, torch.tensor(float(is_best)), "sum") > 0)


def _is_plateau(config: LoopConfig, run_dir: Path, iteration: int) -> bool:
    """Whether the best measurement is too long ago."""
    best = read_best(run_dir)
    if best is None or config.stop_after_worse is None:
        return False
    return iteration - best[0] >= config.stop_after_worse * config.observe_every_iterations


def _mark_best(training: Training, run_dir: Path, iteration: int, *, metric: str, value: float | None) -> None:
    if training.accelerator.is_main_process and value is not None:
        mark_best(run_dir, iteration, metric=metric, value=value)
    training.accelerator.wait_for_everyone()


def _not_finite(training: Training, micro_batches: Sequence[Batch], *, run_dir: Path, iteration: int) -> str:
    """Write the offending batch, and say so."""
    file = run_dir / f"not_finite-{iteration:07d}-{training.accelerator.process_index}.npz"
    x0, y, counter = (
        torch.cat([getattr(batch, name) for batch in micro_batches]).numpy() for name in ("x0", "y", "counter")
    )
    with atomic_write(file) as stream:
        np.savez(stream, x0=x0, y=y, counter=counter)
    return (
        f"loss or gradient were not finite in {training.config.max_skipped} updates in a row, the last at iteration "
        f"{iteration}, whose images are in {file}; {remedy(run_dir)}"
    )
