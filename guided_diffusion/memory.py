"""Memory that runs out: its errors, the batch that fits, and a message; and freed memory that is kept."""

import ctypes
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch

from .distributed import free_cached_memory

T = TypeVar("T")

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of mallopt."""
_OUT_OF_MEMORY = (
    "out of memory", "can't allocate memory", "Cannot allocate memory", "bad_alloc",
    "could not create a primitive", "could not create a memory",  # oneDNN, which does not say why
    "CUDNN_STATUS_NOT_SUPPORTED",  # cuDNN, likewise
    "can't start new thread",  # whose stack needs some
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """True for errors that a smaller batch might avoid."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(text in str(error) for text in _OUT_OF_MEMORY)


def out_of_memory_message(error: BaseException, options: Iterable[str]) -> str:
    """Advice by those of a command's options that say how many images it computes at a time."""
    names = [f"--{name}" for name in options if name.endswith(("batch_size", "per_process"))]
    advice = f"lower {' or '.join(names)}, or free some memory" if names else "free some memory"
    reason = str(error).strip().split("\n")[0]
    return f"out of memory: {advice} ({reason or type(error).__name__})"


def first_fitting(candidates: Sequence[T], attempt: Callable[[T], object]) -> T:
    """The first of the candidates for which `attempt` does not run out of memory.

    Raises:
        RuntimeError: not even the last one fits.
    """
    *others, last = candidates
    for candidate in others:
        try:
            attempt(candidate)
        except (RuntimeError, MemoryError, OSError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return candidate
        free_cached_memory()
    attempt(last)
    return last


def keep_freed_memory() -> None:
    """Have glibc keep memory that is freed, so that large tensors find it again; other C libraries go on as they do.

    Else it returns them to the system, whose page faults take 6% to 12% of a U-Net's training step on a CPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, -1)
        mallopt(_MMAP_MAX, 0)


def halves(size: int) -> list[int]:
    """Sizes to try, until one fits: size, size / 2, size / 4, .., 1, rounded up."""
    return [size] if size == 1 else [size, *halves(-(-size // 2))]
