"""Resuming a training.

A checkpoint's resume/ directory holds what only training needs: the optimiser's moments, the loss scale, the state of
an adaptive objective and the cut into micro-batches, as safetensors and JSON.
"""

import errno
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..checkpoint import Checkpoint, DamagedCheckpointError, open_checkpoint, read_tensors, verify
from ..config import from_plain, to_plain
from ..data.fingerprint import fingerprint
from ..data.image_set import ImageSet
from ..distributed import laid_out_like
from ..records import DamagedRecordError, Fields, check_record, differences, read_record
from ..run_directory import checkpoints, latest, no_directories, set_aside
from ..weight_averages import POWER
from .ema import EMA
from .run import TrainingRun, TrainState

_SCALE: Fields = {
    "scale": float, "growth_factor": float, "backoff_factor": float, "growth_interval": int, "_growth_tracker": int
}  # fmt: skip
_YOUNGER = (": absent there, null now", ": absent there, [] now", ": absent there, 0 now", ": absent there, false now")
"""Endings of differences in options that are younger than the checkpoint, and off."""
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


def stored_class_names(run_dir: Path) -> tuple[str, ...]:
    """Class names in a run's newest checkpoint; empty where there is none, or it is damaged."""
    with suppress(DamagedRecordError, OSError):
        if (found := latest(run_dir)) is not None:
            record = read_record(found / "config.json", {"model": {"class_names": list[str] | None}})
            return tuple(record["model"].get("class_names") or ())
    return ()


def data_record(images: ImageSet) -> dict[str, Any]:
    """The record of the images that a checkpoint keeps."""
    return {"images": len(images), "fingerprint": fingerprint(images)}


def starting_checkpoint(run: TrainingRun, data: Mapping[str, Any], *, leave_damaged: bool = False) -> Path | None:
    """The newest sound checkpoint of a run to resume, None for a run that begins.

    Newer ones that are damaged, or of another model than it, are reported and, unless they are to be left, set aside.

    Raises:
        FileNotFoundError: its resume/ directory was deleted.
        ValueError: none is of the model asked for, or none is sound; all stay as they are.
    """
    check_run_directory(run.directory, resume=run.resume)
    for path in no_directories(run.directory):
        _logger.warning("%s is no directory; the checkpoint before it is taken", path)
    faults: dict[Path, ValueError] = {}
    for path in reversed(checkpoints(run.directory)):
        try:
            checkpoint = open_checkpoint(path, run.kind)
            _refuse_another_model(checkpoint, run)
            verify(checkpoint)
        except (DamagedCheckpointError, _AnotherModelError) as fault:
            faults[path] = fault
            continue
        _refuse_without_resume(checkpoint)
        _warn_of_changes(checkpoint, run, data)
        for broken, fault in faults.items():
            place = "" if leave_damaged else f"it is now {set_aside(broken)}, and "
            _logger.warning("%s; %sthe checkpoint before it is tried", fault, place)
        return path
    if faults:
        unsound = f"none of the {len(faults)} checkpoints in {run.directory} is sound; begin again in another --out"
        of_others = (fault for fault in faults.values() if isinstance(fault, _AnotherModelError))
        raise next(of_others, ValueError(f"{unsound} ({next(iter(faults.values()))})"))
    return None


class _AnotherModelError(ValueError):
    """A checkpoint of another model than the one asked for, or whose description was changed."""


def _refuse_without_resume(checkpoint: Checkpoint) -> None:
    directory = checkpoint.path / "resume"
    if "imported" in checkpoint.run:
        raise ValueError(
            f"{checkpoint.path} is an imported model: a published file holds neither the optimiser's moments nor, of a "
            f"diffusion model, the weights as trained, so its training cannot be continued; sample from it, guide "
            f"with it, or train a model of your own in another --out"
        )
    if not directory.is_dir():
        raise FileNotFoundError(
            f"{directory} is gone: {checkpoint.path} can be sampled from, but its training cannot be continued; begin "
            f"again in another --out"
        )


def _refuse_another_model(checkpoint: Checkpoint, run: TrainingRun) -> None:
    stored, source = checkpoint.model, str(checkpoint.path / "config.json")
    if not isinstance(run.model, Mapping):
        try:  # through the config class, so that a field younger than the checkpoint has its default
            stored = to_plain(from_plain(type(run.model), stored, source=source))
        except ValueError as error:
            raise DamagedCheckpointError(str(error)) from None
    changed = [
        difference
        for difference in differences(stored, to_plain(run.model))
        if not difference.startswith("unseen_classes:")  # a record of the images, which are no setting
    ]
    if changed:
        raise _AnotherModelError(
            f"cannot resume {checkpoint.path}: its model differs from the one asked for in {'; '.join(changed)}. "
            f"Give the same settings, or choose another --out"
        )


def _warn_of_changes(checkpoint: Checkpoint, run: TrainingRun, data: Mapping[str, Any]) -> None:
    before = _read(checkpoint.path / "resume" / "data.json", {"images": int, "fingerprint": str})
    speed = ["training.channels_last", "training.compile", "training.recompute_sizes"]  # the first is of old versions
    unchanged = ["resume", "dry_run", "out", *speed, *(["data.path"] if before == data else [])]
    changed = [
        difference
        for difference in differences(checkpoint.run, to_plain(run.settings))
        if difference.split(":")[0] not in unchanged and not difference.endswith(_YOUNGER)
    ]
    if changed:
        _logger.warning("resuming %s with other settings: %s", checkpoint.path, "; ".join(changed))
    if before and before != data:
        counts = f"{before['images']:,} there, {data['images']:,} now"
        how = counts if before["images"] != data["images"] else "other names, sizes or labels"
        _logger.warning(
            "resuming %s with other images than it was trained on: %s; stop it if images of %s are missing or were "
            "replaced by mistake", checkpoint.path, how, run.batches.images.path,
        )  # fmt: skip


def read_resume(checkpoint: Checkpoint, state: TrainState) -> dict[str, int]:
    """Restore optimiser, loss scale, averages and the history of losses; the cut into micro-batches, if it is known.

    Raises:
        ValueError: an average that the checkpoint does not hold, or a damaged file.
    """
    directory = checkpoint.path / "resume"
    _refuse_other_averages(checkpoint, state.ema)
    optimizer, scaler, timesteps = state.optimizer, state.accelerator.scaler, state.run.adaptive_timesteps
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, Any]] = {}
    for key, tensor in read_tensors(directory / "optimizer.safetensors").items():
        number, name = key.split(".", 1)
        value = laid_out_like(tensor, parameters[int(number)]) if tensor.ndim else tensor  # without dimensions: a count
        moments.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    scale = _read(directory / "loss_scale.json", _SCALE)
    if scaler is not None and scale:
        scaler.load_state_dict(scale)
    for name in state.ema.averages:
        state.ema.load(name, read_tensors(checkpoint.weights_file(name)))
    objective = directory / "objective.safetensors"
    history = read_tensors(objective).get("history") if objective.exists() else None
    if timesteps is not None and history is not None:
        timesteps.history.copy_(history)
    return _read(directory / "micro_batches.json", {"share": int, "micro_size": int})


def _read(file: Path, fields: Fields) -> dict[str, Any]:
    """A record of resume/, empty where it is or where it is missing, as in older checkpoints."""
    try:
        record = read_record(file, {}) if file.exists() else {}
        return record and check_record(record, fields, source=file)
    except DamagedRecordError as damage:
        raise DamagedCheckpointError(str(damage)) from None


def _refuse_other_averages(checkpoint: Checkpoint, ema: EMA) -> None:
    missing = [name for name in ema.averages if name not in checkpoint.weight_names]
    if missing:
        kept = [name for name in checkpoint.weight_names if name.startswith("ema_")]
        decays = ",".join(name.removeprefix("ema_") for name in kept if not name.startswith(POWER))
        widths = ",".join(name.removeprefix(POWER) for name in kept if name.startswith(POWER))
        is_power = missing[0].startswith(POWER)
        wanted = f"average {missing[0]}" if is_power else f"average of decay {missing[0].removeprefix('ema_')}"
        raise ValueError(
            f"cannot resume {checkpoint.path}: it holds no {wanted}; give --training.ema_decays '[{decays}]'"
            + (f" --training.ema_widths '[{widths}]'" if widths or is_power else "")
            + ", those it has"
        )
