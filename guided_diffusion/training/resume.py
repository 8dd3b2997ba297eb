"""Where a run continues: the newest sound checkpoint, and what training alone needs of it.

That is the optimiser's moments, the loss scale and what an objective has learnt, as safetensors and JSON.
"""

import errno
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from ..checkpoint import Checkpoint, DamagedCheckpointError, open_checkpoint, read_tensors, verify, write_tensors
from ..config import differences, from_plain, to_plain
from ..distributed import full, laid_out_like
from ..run_directory import checkpoints, latest, set_aside
from .ema import EMA

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """What a checkpoint says of the model it holds, beside its weights."""

    kind: str
    model: Any
    """Config (dataclass or plain mapping) of the model; a resumed run must have the same."""
    run: Any
    """The whole run's config, likewise."""


def check_run_directory(run_dir: Path, *, resume: bool) -> None:
    """Refuse, before the data are read, a place for a run that training could not begin in.

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


def starting_checkpoint(
    run_dir: Path, identity: Identity, *, resume: bool, leave_damaged: bool = False
) -> Checkpoint | None:
    """The newest sound checkpoint of a run to be resumed, None for a run that begins.

    A damaged one is reported and, unless it is to be left, set aside under another name.

    Raises:
        ValueError, PermissionError: as `check_run_directory`; a checkpoint of another model; or none that is sound.
    """
    check_run_directory(run_dir, resume=resume)
    found = checkpoints(run_dir)
    for path in reversed(found):
        try:
            checkpoint = open_checkpoint(path, identity.kind)
            verify(checkpoint)
        except DamagedCheckpointError as damage:
            now = path if leave_damaged else set_aside(path)
            _logger.warning("%s; it is now %s, and the checkpoint before it is tried", damage, now)
            continue
        _refuse_another_model(checkpoint, identity)
        return checkpoint
    if found:
        raise ValueError(f"none of the {len(found)} checkpoints in {run_dir} is sound; begin again in another --out")
    return None


def _refuse_another_model(checkpoint: Checkpoint, identity: Identity) -> None:
    # Through the config class, so that a field which is younger than the checkpoint has its default there.
    stored = checkpoint.model
    if not isinstance(identity.model, Mapping):
        source = str(checkpoint.path / "config.json")
        stored = to_plain(from_plain(type(identity.model), checkpoint.model, source=source))
    changed = differences(stored, to_plain(identity.model))
    if changed:
        raise ValueError(
            f"cannot resume {checkpoint.path}: its model differs from the one asked for in {'; '.join(changed)}. "
            f"Give the same settings, or choose another --out"
        )
    otherwise = [
        difference
        for difference in differences(checkpoint.run, to_plain(identity.run))
        if not difference.startswith(("resume:", "dry_run:"))  # how a command is given is no setting of the run
    ]
    if otherwise:
        _logger.warning("resuming %s with other settings: %s", checkpoint.path, "; ".join(otherwise))


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The moments, whole, as "<parameter's number>.<name>". Where they are spread, every process must ask."""
    return {
        f"{parameter}.{name}": full(value.detach())
        for parameter, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def write_resume(
    directory: Path,
    *,
    moments: Mapping[str, Tensor],
    scaler: GradScaler | None,
    learnt: Mapping[str, Tensor],
    cut: Mapping[str, int],
) -> None:
    """Fill a checkpoint's resume/ directory. cut: how a process's share of the batch was cut into micro-batches."""
    for name, tensors in (("optimizer", moments), ("objective", learnt)):
        write_tensors(tensors, directory / f"{name}.safetensors")
    scale = {} if scaler is None else scaler.state_dict()
    (directory / "loss_scale.json").write_text(json.dumps(scale))
    (directory / "micro_batches.json").write_text(json.dumps(cut))


def read_resume(
    checkpoint: Checkpoint, *, optimizer: torch.optim.Optimizer, scaler: GradScaler | None, ema: EMA
) -> dict[str, Tensor]:
    """Bring optimiser, loss scale and averages to where the checkpoint left them; what the objective had learnt.

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
    _refuse_other_averages(checkpoint, ema)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states: dict[int, dict[str, Any]] = {}
    for key, tensor in read_tensors(directory / "optimizer.safetensors").items():
        number, name = key.split(".", 1)
        is_count = tensor.ndim == 0
        states.setdefault(int(number), {})[name] = (
            tensor if is_count else laid_out_like(tensor, parameters[int(number)])
        )
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    scale = json.loads((directory / "loss_scale.json").read_text())
    if scaler is not None and scale:
        scaler.load_state_dict(scale)
    for decay in ema.averages:
        ema.load(decay, read_tensors(checkpoint.weights_file(f"ema_{decay}")))
    learnt = directory / "objective.safetensors"
    return read_tensors(learnt) if learnt.exists() else {}


def read_cut(checkpoint: Checkpoint) -> Mapping[str, int]:
    """How the checkpoint's training cut its batches, for as long as it is the same on the same number of processes."""
    file = checkpoint.path / "resume" / "micro_batches.json"
    return json.loads(file.read_text()) if file.exists() else {}


def _refuse_other_averages(checkpoint: Checkpoint, ema: EMA) -> None:
    kept = [name.removeprefix("ema_") for name in checkpoint.weight_names if name.startswith("ema_")]
    missing = [decay for decay in ema.averages if str(decay) not in kept]
    if missing:
        raise ValueError(
            f"cannot resume {checkpoint.path}: it holds no average of decay {missing[0]}; give --training.ema_decays "
            f"'[{','.join(kept)}]', those it has"
        )
