"""Saving and resuming a training.

A checkpoint's resume/ directory holds what only training needs: the optimiser's moments, the loss scale, the state of
an adaptive objective and the cut into micro-batches, as safetensors and JSON.
"""

import errno
import json
import logging
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..checkpoint import (
    Checkpoint,
    DamagedCheckpointError,
    open_checkpoint,
    read_tensors,
    save_checkpoint,
    verify,
    write_tensors,
)
from ..config import differences, from_plain, to_plain
from ..distributed import full, full_state, laid_out_like, local, wait_for_everyone
from ..run_directory import checkpoints, latest, prune, set_aside
from .ema import EMA
from .run import TrainingRun, TrainState

_logger = logging.getLogger(__name__)


def check_run_directory(run_dir: Path, *, resume: bool) -> None:
    """Refuse, before the data are read, a run directory that training cannot start in.

    Raises:
        ValueError: checkpoints though `resume` is False, or a file where a directory is needed.
        PermissionError: a directory that may not be written to.
    """
    existing = next(path for path in (run_dir, *run_dir.parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(f"{existing} is a file, where --out {run_dir} needs a directory; choose another --out")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, f"--out {run_dir} cannot be written", str(existing))
    found = latest(run_dir)
    if found is not None and not resume:
        raise ValueError(f"{found} is there already: continue that run with --resume auto, or choose another --out")


def starting_checkpoint(run: TrainingRun, *, leave_damaged: bool = False) -> Path | None:
    """The newest sound checkpoint of a run to resume, None for a run that begins.

    A damaged one is reported and, unless it is to be left, set aside under another name.

    Raises:
        ValueError: a checkpoint of another model, or none that is sound.
    """
    check_run_directory(run.directory, resume=run.resume)
    found = checkpoints(run.directory)
    for path in reversed(found):
        try:
            checkpoint = open_checkpoint(path, run.kind)
            verify(checkpoint)
        except DamagedCheckpointError as damage:
            now = path if leave_damaged else set_aside(path)
            _logger.warning("%s; it is now %s, and the checkpoint before it is tried", damage, now)
            continue
        _refuse_another_model(checkpoint, run)
        return path
    if found:
        raise ValueError(
            f"none of the {len(found)} checkpoints in {run.directory} is sound; begin again in another --out"
        )
    return None


def _refuse_another_model(checkpoint: Checkpoint, run: TrainingRun) -> None:
    # Through the config class, so that a field younger than the checkpoint has its default.
    stored = checkpoint.model
    if not isinstance(run.model, Mapping):
        source = str(checkpoint.path / "config.json")
        stored = to_plain(from_plain(type(run.model), checkpoint.model, source=source))
    changed = [
        difference
        for difference in differences(stored, to_plain(run.model))
        if not difference.startswith("unseen_classes:")  # a record of the images, which are no setting
    ]
    if changed:
        raise ValueError(
            f"cannot resume {checkpoint.path}: its model differs from the one asked for in {'; '.join(changed)}. "
            f"Give the same settings, or choose another --out"
        )
    changed = [
        difference
        for difference in differences(checkpoint.run, to_plain(run.settings))
        if not difference.startswith(("resume:", "dry_run:"))
    ]
    if changed:
        _logger.warning("resuming %s with other settings: %s", checkpoint.path, "; ".join(changed))


def save(state: TrainState) -> None:
    """Write a checkpoint, unless this iteration has one, and delete those that are not to be kept.

    Raises:
        ValueError: weights that are not finite, whose checkpoint would push the sound ones out.
        OSError: the disk failed; no partial checkpoint is left.
    """
    run, iteration = state.run, state.iteration
    if state.saved_iteration == iteration:
        return
    if not all(bool(local(parameter.detach()).isfinite().all()) for parameter in run.network.parameters()):
        raise ValueError(f"the weights are not finite at iteration {iteration}; {remedy(run.directory)}")
    # Sharded weights are gathered by all processes together.
    weights = {"network": full_state(run.network.state_dict()), **state.ema.state_dicts()}
    files = resume_files(state)
    if state.process.is_main:
        save_checkpoint(
            run.directory, kind=run.kind, iteration=iteration, model=to_plain(run.model), run=to_plain(run.settings),
            weights=weights, write_resume=partial(write_resume, files),
        )  # fmt: skip
        prune(run.directory, keep=run.config.keep_checkpoints, keep_every=run.config.keep_every_iterations)
    wait_for_everyone()
    state.saved_iteration = iteration


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
    }


def write_resume(files: Mapping[str, Mapping[str, Any]], directory: Path) -> None:
    """Fill a checkpoint's resume/ directory."""
    for name, content in files.items():
        if name.endswith(".json"):
            (directory / name).write_text(json.dumps(content))
        else:
            write_tensors(content, directory / name)


def read_resume(checkpoint: Checkpoint, state: TrainState) -> dict[str, int]:
    """Restore optimiser, loss scale, averages and the history of losses; the cut into micro-batches, if it is known.

    Raises:
        FileNotFoundError: the checkpoint's resume/ directory was deleted.
        ValueError: an average that the checkpoint does not hold, or a damaged file.
    """
    directory = checkpoint.path / "resume"
    if not directory.is_dir():
        raise FileNotFoundError(
            f"{directory} is gone: {checkpoint.path} can be sampled from, but its training cannot be continued; begin "
            f"again in another --out"
        )
    _refuse_other_averages(checkpoint, state.ema)
    optimizer, scaler, timesteps = state.optimizer, state.accelerator.scaler, state.run.adaptive_timesteps
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, Any]] = {}
    for key, tensor in read_tensors(directory / "optimizer.safetensors").items():
        number, name = key.split(".", 1)
        value = laid_out_like(tensor, parameters[int(number)]) if tensor.ndim else tensor  # without dimensions: a count
        moments.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    scale = json.loads((directory / "loss_scale.json").read_text())
    if scaler is not None and scale:
        scaler.load_state_dict(scale)
    for decay in state.ema.averages:
        state.ema.load(decay, read_tensors(checkpoint.weights_file(f"ema_{decay}")))
    objective, cut = directory / "objective.safetensors", directory / "micro_batches.json"
    history = read_tensors(objective).get("history") if objective.exists() else None
    if timesteps is not None and history is not None:
        timesteps.history.copy_(history)
    return json.loads(cut.read_text()) if cut.exists() else {}


def _refuse_other_averages(checkpoint: Checkpoint, ema: EMA) -> None:
    kept = [name.removeprefix("ema_") for name in checkpoint.weight_names if name.startswith("ema_")]
    missing = [decay for decay in ema.averages if str(decay) not in kept]
    if missing:
        raise ValueError(
            f"cannot resume {checkpoint.path}: it holds no average of decay {missing[0]}; give --training.ema_decays "
            f"'[{','.join(kept)}]', those it has"
        )


def remedy(run_dir: Path) -> str:
    """Advice for numbers that are not finite."""
    settings = "a lower learning rate, max_grad_norm, or float32"
    if latest(run_dir) is None:
        return f"{run_dir} holds no checkpoint yet: begin again with {settings}"
    return f"the checkpoints in {run_dir} are from before: resume with {settings}"
