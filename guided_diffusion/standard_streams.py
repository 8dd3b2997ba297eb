"""Standard streams of a command: a reader that goes away, or a full disk, ends no work that can go on."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from tqdm.contrib.logging import logging_redirect_tqdm

from .files import named_errors


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Let what fails to be written on standard error be lost, and an error of standard output name it.

    Standard error has progress and warnings, which nobody may read any more; standard output has results. A stream that
    was closed before the start is the null device: else a file would take its number, and messages their place in it.
    Warnings are written above progress bars.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115  # for as long as the process lives
    errors: Any = _Guarded(sys.stderr, partial(suppress, OSError))
    output: Any = _Guarded(sys.stdout, partial(named_errors, Path("standard output")))
    with redirect_stderr(errors), redirect_stdout(output), logging_redirect_tqdm():
        yield


class _Guarded:
    """A text stream that is written to within a context manager of its own."""

    def __init__(self, stream: TextIO, guard: Callable[[], AbstractContextManager[Any]]) -> None:
        self._stream, self._guard = stream, guard

    def write(self, text: str) -> int:
        """Write a text; its length."""
        with self._guard():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        with self._guard():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:  # all else is the stream's own
        return getattr(self._stream, name)
