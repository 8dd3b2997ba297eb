"""Several processes that share a sampling run: their devices, and sums that none waits for."""

from itertools import count

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from torch.distributed import HashStore, PrefixStore  # pyright: ignore[reportPrivateImportUsage]  # documented, though
from torch.distributed.distributed_c10d import _get_default_store  # pyright: ignore[reportPrivateUsage]  # no public name

from ..distributed import PATIENCE, has_accelerator

_tallies = count()


def accelerator() -> Accelerator:
    """Without `cpu`, accelerate takes each of several processes without accelerators for a run of its own."""
    return Accelerator(cpu=not has_accelerator(), kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])


def this_device() -> torch.device:
    """The device that this process should compute on."""
    return accelerator().device


class Tally:
    """Whole numbers summed over all processes, by name, in the store by which the processes found each other.

    A collective would make each process wait for all others, and fail after minutes; here each adds when it has
    something. All processes make their tallies in the same order.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        shared = _get_default_store() if accelerator.num_processes > 1 else HashStore()
        self._store = PrefixStore(f"tally {next(_tallies)}", shared)

    def add(self, name: str, number: int) -> None:
        """Add to the sum of that name."""
        self._store.add(name, number)

    def total(self, name: str) -> int:
        """The sum so far, 0 before anything was added."""
        return self._store.add(name, 0)
