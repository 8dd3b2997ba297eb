"""Reading in worker processes, through torch's DataLoader."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

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

    num_workers: 0 reads in this process. A ValueError or OSError of `read` is raised here with its own message alone.
    """
    loader = DataLoader(
        _Entries(),
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=partial(_read_or_failure, read),
        pin_memory=pin_memory,
        worker_init_fn=_leave_process_group,
        generator=torch.Generator(),  # DataLoader would draw its workers' seed from the global generator
    )
    for loaded in loader:
        if isinstance(loaded, Exception):
            raise loaded
        yield loaded


def read_each(
    read: Callable[[int], Result], count: int, *, start: int = 0, num_workers: int, desc: str
) -> Iterator[Result]:
    """`read` of each of the indices start .. count - 1, in order, by worker processes, under a progress bar."""
    chunks = [list(range(first, min(first + _CHUNK, count))) for first in range(start, count, _CHUNK)]
    with tqdm(total=count, initial=start, desc=desc, unit="img") as bar:
        for results in read_in_workers(partial(_read_chunk, read), chunks, num_workers=num_workers):
            yield from results
            bar.update(len(results))


def _read_chunk(read: Callable[[int], Result], indices: Sequence[int]) -> list[Result]:
    return [read(index) for index in indices]


class _Entries(Dataset[Any]):
    """Each entry as it is: `collate_fn` reads whole batches of them."""

    def __getitem__(self, entry: Any) -> Any:
        return entry


def _read_or_failure(read: Callable[[Sequence[Entry]], Result], entries: Sequence[Entry]) -> Result | Exception:
    # DataLoader would carry an exception out of a worker as a traceback with our message at its end; handed over as a
    # value and raised in the main process, the message is all there is to read.
    try:
        return read(entries)
    except (ValueError, OSError) as failure:
        return failure


def _leave_process_group(worker: int) -> None:
    """A signal to the whole group (Ctrl-C, a batch system's SIGTERM) must not kill workers of a run that is saving."""
    if hasattr(os, "setsid"):
        os.setsid()
