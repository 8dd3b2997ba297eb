"""Requests to stop: SIGTERM, SIGINT and SIGHUP."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class InterruptedWork(Exception):  # noqa: N818  # a request, not an error
    """Work that can be left out, or that the same command goes on with, was cut short by a request to stop."""


class StopRequest:
    """A request by a signal. It is answered between two steps, or at once where nothing is lost."""

    def __init__(self) -> None:
        self.requested = False
        self._interrupts = False

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Within it, a request raises InterruptedWork at once: for long work that changes nothing."""
        self._interrupts = True
        try:
            if self.requested:
                raise InterruptedWork
            yield
        finally:
            self._interrupts = False

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C means it
        if self._interrupts:
            self._interrupts = False  # here, since the next signal may come before the block is left
            raise InterruptedWork


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn SIGTERM, the first SIGINT and SIGHUP into a request while the block runs.

    SIGHUP tells that the terminal was closed; under nohup it stays ignored. Signals reach the main thread alone.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, stop.receive) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
