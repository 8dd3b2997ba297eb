"""Memory of a training, needed and free."""

import os
from collections.abc import Callable
from pathlib import Path

import psutil
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ..distributed import local

CPU_SHARE = 0.7
"""Share of the free memory that activations may take on a CPU, where a process that runs out is killed."""


def activation_bytes(network: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes that one forward pass keeps for its backward pass, the network's own weights left out."""
    own = {local(parameter.detach()).untyped_storage().data_ptr() for parameter in network.parameters()}
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


def evenly_cut(size: int, *, most: int) -> int:
    """The largest part when `size` is cut into the fewest nearly equal parts of at most `most`."""
    return -(-size // -(-size // most))


def cpu_limit(network: nn.Module, bytes_per_image: int) -> int:
    """Images, at least 1, whose activations fit into this process's share of the free memory beside the optimiser."""
    processes_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    moments_and_gradients = 3 * sum(local(p.detach()).numel() * p.element_size() for p in network.parameters())
    free = CPU_SHARE * (free_bytes() / processes_here - moments_and_gradients)
    return max(1, int(free / max(1, bytes_per_image)))


def free_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Free memory of the machine or, where that is less, of the container."""
    free = psutil.virtual_memory().available
    limit = cgroup / "memory.max"
    if not limit.is_file() or not (text := limit.read_text().strip()).isdecimal():
        return free
    return min(free, max(0, int(text) - int((cgroup / "memory.current").read_text())))
