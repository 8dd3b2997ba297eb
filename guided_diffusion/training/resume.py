"""What training alone needs of a checkpoint: the optimiser's moments and the loss scale, as safetensors and JSON."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.amp.grad_scaler import GradScaler

from ..checkpoint import Checkpoint, read_tensors
from .ema import EMA


def write_resume(directory: Path, *, optimizer: torch.optim.Optimizer, scaler: GradScaler | None) -> None:
    """Fill a checkpoint's resume/ directory."""
    states = optimizer.state_dict()["state"]
    tensors = {
        f"{parameter}.{name}": value.detach().cpu().contiguous()
        for parameter, state in states.items()
        for name, value in state.items()
    }
    save_file(tensors, directory / "optimizer.safetensors")
    scale = {} if scaler is None else scaler.state_dict()
    (directory / "loss_scale.json").write_text(json.dumps(scale))


def read_resume(
    checkpoint: Checkpoint, *, optimizer: torch.optim.Optimizer, scaler: GradScaler | None, ema: EMA
) -> None:
    """Bring optimiser, loss scale and averages to where the checkpoint left them.

    Raises:
        FileNotFoundError: the checkpoint's resume/ directory was deleted.
        ValueError: an average that the checkpoint does not hold, or a damaged file.
    """
    directory = checkpoint.path / "resume"
    if not directory.is_dir():
        raise FileNotFoundError(
            f"{directory} is gone: {checkpoint.path} can be sampled from, but its training cannot be continued"
        )
    states: dict[int, dict[str, Any]] = {}
    for key, tensor in read_tensors(directory / "optimizer.safetensors").items():
        parameter, name = key.split(".", 1)
        states.setdefault(int(parameter), {})[name] = tensor
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    scale = json.loads((directory / "loss_scale.json").read_text())
    if scaler is not None and scale:
        scaler.load_state_dict(scale)
    for decay in ema.averages:
        ema.load(decay, read_tensors(checkpoint.weights_file(f"ema_{decay}")))
