"""How many images fit into memory at a time."""

import os
from collections.abc import Callable

import psutil
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from .processes import free_cached_memory, is_out_of_memory

CPU_SHARE = 0.7
"""Of the free memory that activations may take on a CPU, which kills a process rather than say that memory is out."""


def largest_fitting(size: int, attempt: Callable[[int], None]) -> int:
    """The largest of size, size / 2, size / 4, .. images for which `attempt` does not run out of memory.

    Raises:
        RuntimeError: not even one image fits.
    """
    while True:
        try:
            attempt(size)
        except RuntimeError as error:
            if size == 1 or not is_out_of_memory(error):
                raise
        else:
            return size
        free_cached_memory()
        size = -(-size // 2)


def activation_bytes(network: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes that one forward pass keeps for its backward pass, the network's own weights left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward()
    del loss
    return sum(kept.values())


def cpu_limit(bytes_per_image: int) -> int:
    """Images whose activations fit into this process's part of the machine's free memory, at least 1."""
    processes_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, int(CPU_SHARE * psutil.virtual_memory().available / processes_here / max(1, bytes_per_image)))


def training_bytes(network: nn.Module, *, averages: int) -> int:
    """Bytes of weights, gradients, AdamW's two moments and the averages, were they all in one process."""
    return (4 + averages) * sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())


def peak_bytes() -> int | None:
    """Most memory that torch has held on the GPU; None on a CPU."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
