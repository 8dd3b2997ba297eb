"""Which device to compute on, and what to do when its memory is out."""

from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

PATIENCE = timedelta(hours=2)
"""How long processes wait for one that previews, writes a checkpoint or makes numbers; a group's own is 10 minutes. The
first of a program's accelerators or states decides, so all of them say it."""


def has_accelerator() -> bool:
    """Whether to use torch's accelerator. Not Apple's: it has no float64, in which coefficients are formed."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator is not None and accelerator.type != "mps"


def default_device() -> torch.device:
    """The device of a command that runs as one process."""
    device = torch.accelerator.current_accelerator(check_available=True)
    return device if device is not None and has_accelerator() else torch.device("cpu")


def is_first_process() -> bool:
    """Whether this is the one of a run's processes that speaks and writes."""
    return not dist.is_available() or not dist.is_initialized() or dist.get_rank() == 0


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a smaller batch might help."""
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


def free_cached_memory() -> None:
    """Give back what a failed attempt left behind."""
    clear_device_cache(garbage_collection=True)
