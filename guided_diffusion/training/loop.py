"""The one training loop. It knows batches, averages and checkpoints, and nothing of diffusion.

Everything random in iteration n is a function of (seed, n) and of the samples' positions in the stream. A resumed run,
or one on another number of processes, therefore continues exactly, without the state of any generator.
"""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext, suppress
from typing import Any

import numpy as np
import torch
from torch import nn

from ..compilation import uncompiled
from ..data.batches import Batch, EndlessBatches
from ..data.config import refuse_among
from ..data.crops import DamagedImageError
from ..data.image_set import ImageSet, open_training_set
from ..data.labels import matched
from ..data.summary import doubts, repetitions, summary
from ..distributed import locked_for_run, on_any_process, on_main_process, this_process, wait_for_everyone
from ..files import LOCK, atomic_write
from ..run_directory import mark_best, read_best
from ..stop_request import InterruptedWork, StopRequest, stop_requests
from .config import TrainingConfig
from .dry_run import estimate_cost
from .log import TrainingLog
from .objective import Objective, Observe
from .resume import check_run_directory, stored_class_names
from .run import TrainingRun, TrainState
from .saving import confirm, drop_later_snapshots, remedy, save_if_due, save_last, snapshot_if_due, write
from .setup import set_up
from .source import source_of
from .step import MOST_LOSS_GROWTH, accumulate, launch, settle

_logger = logging.getLogger(__name__)


def open_training_data(
    config: TrainingConfig, *, class_names: Sequence[str] = (), is_labelled: bool = True
) -> ImageSet:
    """The images of a training, opened once its run directory is known to do.

    class_names: of the model to be guided. The same classes have the order and spelling of the run that is resumed, or
        else of these: decomposed accents sort otherwise. is_labelled: as for `open_training_set`.
    """
    refuse_among(config.data.path, config.out)
    check_run_directory(config.out, resume=config.resume == "auto")
    images = open_training_set(config.data, image_size=config.network.image_size, is_labelled=is_labelled)
    names = stored_class_names(config.out) or tuple(class_names)
    if names != images.class_names and sorted(matched(names, images.class_names)) == [*range(len(images.class_names))]:
        images = open_training_set(config.data, image_size=config.network.image_size, class_names=names)
    if this_process().is_main:
        print(summary(images), file=sys.stderr)
        for doubt in doubts(images):
            _logger.warning("%s", doubt)
    return images


def train(
    config: TrainingConfig,
    data: ImageSet,
    *,
    kind: str,
    model: Any,
    make_network: Callable[[], nn.Module],
    objective: Objective,
    observe: Observe | None = None,
    best_by: str | None = None,
) -> None:
    """Train a new network, its weights drawn from the config's seed or those of `from_`, or print the cost if `dry_run`
    asks for that.

    kind, model, best_by: as in `TrainingRun`.
    """
    seed = config.training.seed
    torch.manual_seed(seed)
    batches = EndlessBatches(
        data, batch_size=config.training.batch.size, seed=seed, num_workers=config.data.num_workers,
        balanced=config.data.balance,
    )  # fmt: skip
    if batches.balanced and this_process().is_main:
        print(repetitions(data, config.training.total_iterations * batches.batch_size), file=sys.stderr)
    run = TrainingRun(
        directory=config.out, kind=kind, model=model, settings=config, network=make_network(), objective=objective,
        batches=batches, config=config.training, observe=observe, best_by=best_by, resume=config.resume == "auto",
        source=source_of(config, kind),
    )  # fmt: skip
    (estimate_cost if config.dry_run else fit)(run)


def fit(run: TrainingRun) -> None:
    """Train until the budget is spent, or SIGTERM or SIGINT asks to stop; in either case the last state is saved.

    Runs as one process or as many (`accelerate launch`, `torchrun`); the batch size is that of all together.

    Raises:
        ValueError: the run directory holds checkpoints and `resume` is False, or they are of another model; a batch
            size that does not divide; updates that go wrong, or weights that are not finite.
        OSError: the data failed, or the disk at the end; the last checkpoint is whole.
    """
    with ExitStack() as stack:
        # A directory that another training may write to is locked before anything in it is read; others are locked
        # after all refusals, which leave nothing behind.
        lock, is_in_use = locked_for_run(run.directory, work="training"), on_main_process((run.directory / LOCK).exists)
        if is_in_use:
            stack.enter_context(lock)
        state = set_up(run)
        if not is_in_use:
            stack.enter_context(lock)
        drop_later_snapshots(state)
        log = stack.enter_context(closing(TrainingLog(state)))
        stop = stack.enter_context(stop_requests())
        _resume_observing(state, log, stop)
        run.network.train()
        _iterate(state, log, stop)
        save_last(state)
        log.say(_ending(state))


def _iterate(state: TrainState, log: TrainingLog, stop: StopRequest) -> None:
    """Make updates until the training is over or asked to stop."""
    config = state.run.config
    for micro_batches in _batches(state):
        try:
            update = accumulate(state, micro_batches, stop)
        except InterruptedWork:
            _settle(state, log)
            return
        if _settle(state, log):  # the update before; the device has come so far that its outcome is on the host
            state.optimizer.zero_grad()
            return
        launch(state, update, stop)
        intervals = [config.log_every_iterations, config.save_every_iterations, config.observe_every_iterations]
        intervals += [config.snapshot_every_iterations or config.save_every_iterations]
        if state.settles_late and state.save_from is None and not any(map(state.is_due, intervals)):
            continue
        is_stopped = _settle(state, log)
        snapshot_if_due(state)
        save_if_due(state)
        if is_stopped:
            return
        if state.is_due(config.observe_every_iterations):
            _observe(state, log, stop)


def _settle(state: TrainState, log: TrainingLog) -> bool:
    """Settle the launched update, if there is one, and record it; True if some process was asked to stop."""
    updated = settle(state)
    if updated is None:
        return False
    log.add(updated)
    if state.unsound_in_a_row >= state.run.config.max_skipped:
        raise ValueError(_divergence(state, updated.micro_batches))
    if state.is_sound:
        confirm(state)
    if updated.stop_requested or state.is_due(state.run.config.log_every_iterations):
        log.write(state)
    return updated.stop_requested


def _batches(state: TrainState) -> Iterator[list[Batch]]:
    """Micro-batches until the training is over; where the data fail, the training so far is saved first."""
    stream = state.micro_batches()
    while not state.is_over:
        begin = time.perf_counter()
        try:
            micro_batches = next(stream)
        except (OSError, DamagedImageError):
            settle(state)
            if state.process.world_size == 1:  # several processes would wait for the one without data
                with suppress(ValueError, OSError):  # else the reason that the user can mend would be lost
                    save_last(state)
            raise
        state.waited += time.perf_counter() - begin
        yield micro_batches


def _resume_observing(state: TrainState, log: TrainingLog, stop: StopRequest) -> None:
    """Recall early stopping, and make up for an observation that a stopped run left out after its last checkpoint."""
    iteration = state.iteration
    state.has_converged = _stop_early(state, {})
    is_due = iteration > 0 and state.is_due(state.run.config.observe_every_iterations)
    if is_due and bool(on_any_process(log.lacks_observation(iteration))):
        _observe(state, log, stop)


def _observe(state: TrainState, log: TrainingLog, stop: StopRequest) -> None:
    """Observe the averaged weights, and stop early if their metric calls for it; a request to stop cuts it short."""
    observe, is_sharded, metrics = state.run.observe, state.run.config.shard, {}
    if observe is not None and (is_sharded or state.process.is_main):
        with state.ema.applied() as averaged, uncompiled(averaged):
            try:
                # A sharded network computes on all processes together: none may leave.
                with nullcontext() if is_sharded else stop.interrupting():
                    metrics = observe(averaged, state.iteration)
            except InterruptedWork:
                log.say(f"the observation at iteration {state.iteration} is left out: the run was asked to stop")
            except OSError as error:  # pictures of it, on a full disk
                _logger.warning("the observation at iteration %d is left out: %s", state.iteration, error)
    wait_for_everyone()
    state.has_converged = _stop_early(state, metrics)
    log.write_observed(state.iteration, metrics)  # last: an observation that is on record is not made again


def _stop_early(state: TrainState, metrics: Mapping[str, float]) -> bool:
    """Save and mark the checkpoint of a new best metric; True if there was none for too long.

    Its memory is the mark of the best checkpoint, which a resumed training finds again.
    """
    run, config = state.run, state.run.config
    if config.stop_after_worse is None or run.best_by is None:
        return False
    best, value = read_best(run.directory), metrics.get(run.best_by)
    is_best = state.process.is_main and value is not None and math.isfinite(value) and (not best or value > best[1])
    if bool(on_any_process(is_best)) and not state.unsound_in_a_row:
        failure = write(state)
        if is_best and value is not None:
            _mark_best(state, value, failure)
        wait_for_everyone()
        best = read_best(run.directory)
    patience = config.stop_after_worse * config.observe_every_iterations
    return best is not None and state.iteration - best[0] >= patience


def _mark_best(state: TrainState, value: float, failure: OSError | None) -> None:
    """Mark the checkpoint of this iteration, if it could be written; a disk that fails stops nothing."""
    try:
        if failure is not None:
            raise failure
        mark_best(state.run.directory, state.iteration, metric=str(state.run.best_by), value=value)
    except OSError as error:
        _logger.warning("the best checkpoint, that of iteration %d, is not marked: %s", state.iteration, error)


def _ending(state: TrainState) -> str:
    """A line about how the run ended."""
    directory, iteration, last = state.run.directory, state.iteration, state.run.config.total_iterations
    if state.has_converged and (best := read_best(directory)) is not None:
        return f"stopped at iteration {iteration}: {state.run.best_by} was best, {best[1]:.4g}, at {best[0]}"
    if state.start_iteration >= last > 0:
        return f"{directory} is at iteration {iteration} of {last}: nothing to do"
    if state.saved_iteration < iteration:
        return f"stopped at iteration {iteration}, not saved: its last updates went wrong; {remedy(state)}"
    if iteration < last:
        return f"stopped at iteration {iteration}, saved; continue with --resume auto"
    return f"finished at iteration {iteration}"


def _divergence(state: TrainState, micro_batches: Sequence[Batch]) -> str:
    """Write the offending batch, and say so."""
    directory, iteration = state.run.directory, state.iteration
    file = directory / f"not_finite-{iteration:07d}-{state.process.rank}.npz"
    arrays: dict[str, Any] = {
        name: torch.cat([getattr(batch, name) for batch in micro_batches]).numpy() for name in ("x0", "y", "counter")
    }
    try:
        with atomic_write(file) as stream:
            np.savez(stream, **arrays)
        images = f"are in {file}"
    except OSError as error:
        images = f"could not be written ({error})"
    return (
        f"loss or gradient were not finite in {state.run.config.max_skipped} updates in a row, or the loss over "
        f"{MOST_LOSS_GROWTH:,.0f} times the largest before, the last at iteration {iteration}, whose images {images}; "
        f"{remedy(state)}"
    )
