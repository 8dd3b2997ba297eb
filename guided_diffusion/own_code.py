"""A user's own code, importable from the working directory: names, frozen networks and the hash of their weights."""

import copy
import hashlib
import sys
from collections.abc import Callable
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import nn


def imported(module: str, attribute: str) -> Any:  # whatever it holds
    """MODULE:ATTRIBUTE. Modules of the working directory are found after those that are installed."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    return attrgetter(attribute)(import_module(module))


def qualified_name(code: Callable[..., Any]) -> str:
    """MODULE:NAME of a function or a class, or of the class of anything else."""
    origin = code if hasattr(code, "__qualname__") else type(code)
    return f"{origin.__module__}:{origin.__qualname__}"


def frozen(network: nn.Module, device: torch.device | str | None) -> nn.Module:
    """A copy in evaluation mode whose parameters need no gradient; device: None leaves it where it is."""
    return copy.deepcopy(network).eval().requires_grad_(False).to(device)


def weights_sha256(network: nn.Module) -> str:
    """Hash of a network's parameters and buffers, with their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
