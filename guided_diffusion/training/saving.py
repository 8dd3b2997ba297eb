"""Saving of a training: sound weights alone, on disks that may fail for a while.

A checkpoint is known to be sound once an update that began from its weights was; the newest such one is never deleted.
"""

import json
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import save_checkpoint, write_tensors
from ..config import to_plain
from ..distributed import broadcast_from_main, full, full_state, local, on_any_process
from ..files import remove_directory, remove_leftovers
from ..run_directory import checkpoint_name, checkpoints, latest, number, prune, set_aside, snapshots
from ..weight_averages import POWER
from .run import TrainState

MOST_WEIGHT_GROWTH = 1e3
"""Weights whose largest is over this many times that of the last checkpoint, which counts as at least 1, are refused:
one update at a learning rate far too high leaves them finite, and the next one shows the damage."""

_logger = logging.getLogger(__name__)


def confirm(state: TrainState) -> None:
    """After a sound update: the weights that it began from were sound, and with them their checkpoint."""
    if state.sound_iteration != state.saved_iteration:
        state.sound_iteration = state.saved_iteration
        _prune(state, keep=state.run.config.keep_checkpoints)


def save_if_due(state: TrainState) -> None:
    """Write a checkpoint at its interval or as soon after it as updates are sound and the disk has room.

    Raises:
        ValueError: as in `write`.
    """
    every = state.run.config.save_every_iterations
    if state.is_due(every):
        state.save_from = state.iteration
    if state.save_from is None or state.iteration < state.save_from:
        return
    if not state.is_sound:
        _sound_weights(state)
        return
    failure = write(state)
    state.save_from = None if failure is None else state.iteration + max(1, every // 10)
    if failure is not None and state.process.is_main:
        _logger.warning(
            "no checkpoint at iteration %d: %s; training goes on, and saving is tried again at iteration %d",
            state.iteration, failure, state.save_from,
        )  # fmt: skip


def save_last(state: TrainState) -> None:
    """Save the last state, unless its updates went wrong.

    Raises:
        ValueError: the budget ended in updates that went wrong, or as in `write`.
        OSError: the disk failed; no partial checkpoint is left.
    """
    if state.unsound_in_a_row:
        if state.is_over:
            raise ValueError(f"the last updates, up to iteration {state.iteration}, went wrong; {remedy(state)}")
        return
    failure = write(state)
    if failure is not None:
        newest = latest(state.run.directory)
        kept = "there is no checkpoint" if newest is None else f"the newest checkpoint is {newest}"
        raise OSError(
            f"the training ends at iteration {state.iteration} without a checkpoint of it: {failure}; {kept}. Make "
            f"room and continue with --resume auto"
        )


def write(state: TrainState) -> OSError | None:
    """Write a checkpoint, unless this iteration has one, and delete those that are not to be kept.

    Every process must call this. The failure of the disk, if there was one; no partial checkpoint is left.

    Raises:
        ValueError: weights that are not finite or grew absurdly, whose checkpoint would push the sound ones out.
    """
    run, iteration = state.run, state.iteration
    if state.saved_iteration == iteration:
        return None
    largest = _sound_weights(state)
    # Sharded weights are gathered by all processes together.
    weights = {"network": full_state(run.network.state_dict()), **state.ema.state_dicts()}
    files, failure = resume_files(state), None
    if state.process.is_main:
        try:
            save_checkpoint(
                run.directory, kind=run.kind, iteration=iteration, model=to_plain(run.model),
                run=to_plain(run.settings), weights=weights, write_resume=partial(write_resume, files),
                lineage=state.lineage,
            )  # fmt: skip
        except OSError as error:
            failure = error
    failure = broadcast_from_main(failure)
    if failure is None:
        state.saved_iteration, state.largest_weight = iteration, largest
        # At least 2, since the one before is known to be sound, and this one is not yet.
        _prune(state, keep=max(2, run.config.keep_checkpoints))
    return failure


def snapshot_if_due(state: TrainState) -> None:
    """Keep the power-function averages at their interval; a disk that fails stops nothing.

    A snapshot is a checkpoint of them alone, in float16, which nothing deletes. It is written before the checkpoint of
    its iteration, so that a resumed training lacks none. Every process must call this.
    """
    every = state.run.config.snapshot_every_iterations
    if every is None or state.iteration % every or not state.is_sound:
        return
    run, averages = state.run, state.ema.state_dicts()
    if not state.process.is_main:
        return
    weights = {
        name: {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in average.items()}
        for name, average in averages.items()
        if name.startswith(POWER)
    }
    try:
        save_checkpoint(
            snapshots(run.directory), kind=run.kind, iteration=state.iteration, model=to_plain(run.model),
            run=to_plain(run.settings), weights=weights, lineage=state.lineage,
        )  # fmt: skip
    except OSError as error:
        _logger.warning("no snapshot of the averages at iteration %d: %s", state.iteration, error)


def drop_later_snapshots(state: TrainState) -> None:
    """Delete the snapshots of iterations that this training makes again, perhaps with other settings."""
    directory = snapshots(state.run.directory)
    if not (state.process.is_main and directory.is_dir()):
        return
    remove_leftovers(directory)
    for path in checkpoints(directory):
        if int(number(path) or 0) > state.start_iteration:
            remove_directory(path)


def _sound_weights(state: TrainState) -> Tensor:
    """() the largest weight of this process; refuses weights as `write` does."""
    largest, before = largest_weight(state.run.network), state.largest_weight
    is_broken, is_grown = on_any_process(
        ~largest.isfinite(), largest > MOST_WEIGHT_GROWTH * before.clamp(min=1)
    ).tolist()
    if is_broken or is_grown:
        growth = f"have grown to {float(largest):.3g} from at most {float(before):.3g}"
        fault = "are not finite" if is_broken else growth
        raise ValueError(f"the weights {fault} at iteration {state.iteration}; {remedy(state)}")
    return largest


def largest_weight(network: nn.Module) -> Tensor:
    """() the largest absolute value among this process's weights; NaN if any is."""
    parameters = [local(parameter.detach()) for parameter in network.parameters()]
    return torch.stack([part.abs().amax().float() for part in parameters if part.numel()]).amax()


def _prune(state: TrainState, *, keep: int) -> None:
    """Delete old checkpoints; one that cannot be deleted stops nothing."""
    if not state.process.is_main:
        return
    try:
        prune(state.run.directory, keep=keep, keep_every=state.run.config.keep_every_iterations)
    except (OSError, ValueError) as error:
        _logger.warning("old checkpoints are not deleted: %s", error)


def resume_files(state: TrainState) -> dict[str, Mapping[str, Any]]:
    """The contents of resume/ by file. Where moments are sharded, every process must call this."""
    timesteps, scaler = state.run.adaptive_timesteps, state.accelerator.scaler
    moments = {
        f"{parameter}.{name}": full(value.detach())
        for parameter, values in state.optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }
    return {
        "optimizer.safetensors": moments,
        "objective.safetensors": {} if timesteps is None else {"history": timesteps.history},
        "loss_scale.json": {} if scaler is None else scaler.state_dict(),
        "micro_batches.json": {"share": state.share, "micro_size": state.micro_size},
        "data.json": state.data,
    }


def write_resume(files: Mapping[str, Mapping[str, Any]], directory: Path) -> None:
    """Fill a checkpoint's resume/ directory."""
    for name, content in files.items():
        if name.endswith(".json"):
            (directory / name).write_text(json.dumps(content))
        else:
            write_tensors(content, directory / name)


def remedy(state: TrainState) -> str:
    """Advice for updates that went wrong. A checkpoint that this run wrote and no sound update followed is set aside,
    so that a resumed run takes the one before it."""
    directory, settings = state.run.directory, "a lower learning rate, max_grad_norm, or float32"
    newest = directory / checkpoint_name(state.saved_iteration)
    is_doubtful = state.sound_iteration != state.saved_iteration
    aside = ""
    if is_doubtful and state.saved_iteration > state.start_iteration:
        if state.process.is_main:
            set_aside(newest)
        aside, is_doubtful = f"{newest.name} was written when this began, and is set aside; ", False
    if latest(directory) is None:
        return f"{aside}{directory} holds no checkpoint yet: begin again with {settings}"
    if is_doubtful:
        return f"resume with {settings}; if all updates go wrong again, remove {newest} to resume from the one before"
    return f"{aside}the checkpoints in {directory} are from before: resume with {settings}"
