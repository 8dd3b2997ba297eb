"""Where a run continues: the newest sound checkpoint, and what training alone needs of it.

That is the optimiser's moments, the loss scale and what an objective has learnt, as safetensors and JSON.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from ..checkpoint import Checkpoint, DamagedCheckpointError, open_checkpoint, read_tensors, verify
from ..config import differences, from_plain, to_plain
from ..run_directory import checkpoints, latest, set_aside
from .ema import EMA
from .sharding import full, laid_out_like

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """What a checkpoint says of the model it holds, beside its weights."""

    kind: str
    model: Any
    """Config (dataclass or plain mapping) of the model; a resumed run must have the same."""
    run: Any
    """The whole run's config, likewise."""


def starting_checkpoint(run_dir: Path, identity: Identity, *, resume: bool) -> Checkpoint | None:
    """The newest sound checkpoint of a run to be resumed, None for a run that begins.

    A damaged one is set aside under another name, and reported.

    Raises:
        ValueError: checkpoints though `resume` is False; one of another model; or none that is sound.
    """
    found = checkpoints(run_dir)
    if found and not resume:
        raise ValueError(f"{found[-1]} is there already: continue that run with --resume auto, or choose another --out")
    for path in reversed(found):
        try:
            checkpoint = open_checkpoint(path, identity.kind)
            verify(checkpoint)
        except DamagedCheckpointError as damage:
            _logger.warning("%s; it is now %s, and the checkpoint before it is tried", damage, set_aside(path))
            continue
        _refuse_another_model(checkpoint, identity)
        return checkpoint
    if found:
        raise ValueError(f"none of the {len(found)} checkpoints in {run_dir} is sound; begin again in another --out")
    return None


def agreed_checkpoint(run_dir: Path, identity: Identity) -> Checkpoint | None:
    """What `starting_checkpoint` found, for the other processes of a run, once it is done."""
    found = latest(run_dir)
    return None if found is None else open_checkpoint(found, identity.kind)


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
    otherwise = differences(checkpoint.run, to_plain(identity.run))
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
    directory: Path, *, moments: Mapping[str, Tensor], scaler: GradScaler | None, learnt: Mapping[str, Tensor]
) -> None:
    """Fill a checkpoint's resume/ directory."""
    for name, tensors in (("optimizer", moments), ("objective", learnt)):
        save_file({key: value.cpu().contiguous() for key, value in tensors.items()}, directory / f"{name}.safetensors")
    scale = {} if scaler is None else scaler.state_dict()
    (directory / "loss_scale.json").write_text(json.dumps(scale))


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
            f"{directory} is gone: {checkpoint.path} can be sampled from, but its training cannot be continued"
        )
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
