"""Reading in worker processes, through torch's DataLoader."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

Entry = TypeVar("Entry")
Result = TypeVar("Result")

_CHUNK = 64
"""Images that a worker process reads at a time."""


def read_in_workers(
    read: Callable[[Sequence[Entry]], Result],
    batches: Iterable[list[Entry]],
    *,
    num_workers: int,
    pin_memory: bool = False,
) -> Iterator[Result]:
    """`read` of each batch, in order, by worker processes that read ahead. Drop the iterator to end them.

    num_workers: 0 reads in this process.

    Raises:
        ValueError, OSError: as `read` raises them, with their own message alone.
    """
    loader = DataLoader(
        _Reads(read),
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=_unchanged,
        pin_memory=pin_memory,
        worker_init_fn=_leave_process_group,
        generator=torch.Generator(),  # DataLoader would draw its workers' seed from the global generator
    )
    for loaded in loader:
        if isinstance(loaded, Exception):
            raise loaded
        yield loaded


def chunks(count: int, *, start: int = 0) -> list[list[int]]:
    """The indices start .. count - 1, as many at a time as a worker reads."""
    return [list(range(first, min(first + _CHUNK, count))) for first in range(start, count, _CHUNK)]


class _Reads(Dataset[Any]):  # Any: DataLoader's types know items and lists of them, not what a whole batch becomes
    """Whole batches, and failures as values.

    An exception that DataLoader carries out of a worker arrives as a traceback with our message at its end; handed over
    as a value and raised in the main process, the message is all there is to read.
    """

    def __init__(self, read: Callable[[Sequence[Any]], Any]) -> None:
        self._read = read

    def __getitems__(self, entries: Sequence[Any]) -> Any:
        try:
            return self._read(entries)
        except (ValueError, OSError) as failure:
            return failure


def _unchanged(loaded: Any) -> Any:
    return loaded


def _leave_process_group(worker: int) -> None:
    """A signal to the whole group (Ctrl-C, a batch system's SIGTERM) must not kill workers of a run that is saving."""
    if hasattr(os, "setsid"):
        os.setsid()
