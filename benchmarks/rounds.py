"""Interleaved timing: several ways to do the same work take turns in one process.

A round runs each way once, in an order that rotates, so that other load and a drifting clock fall on all alike. Ratios
are taken within a round. Numbers are medians over the rounds, with their quartiles in brackets.
"""

import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import NamedTuple

import torch

Way = Callable[[], object]
"""A piece of work to be timed."""

NOT_MEASURED = "not measured"


class Missing(NamedTuple):
    """A way that cannot be had here."""

    reason: str


class Spread(NamedTuple):
    """A median and its quartiles."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, lower, upper)

    def rate(self, work: float) -> "Spread":
        """Work a second, where these are the seconds that `work` takes."""
        return Spread(work / self.median, work / self.upper, work / self.lower)


@dataclass(frozen=True)
class Timings:
    """Seconds of each way, one a round, and the reasons for the ways that could not be timed."""

    seconds: Mapping[str, Sequence[float]]
    missing: Mapping[str, str]

    def spread(self, name: str) -> Spread | None:
        """Seconds of a way; None: not measured."""
        return Spread.of(self.seconds[name]) if name in self.seconds else None

    def rate(self, name: str, work: float) -> Spread | None:
        """Work a second, `work` being that of one call."""
        seconds = self.spread(name)
        return None if seconds is None else seconds.rate(work)

    def ratio(self, name: str, to: str) -> Spread | None:
        """Seconds of `name` over those of `to`, in the same rounds: how many times faster `to` is."""
        if name not in self.seconds or to not in self.seconds:
            return None
        return Spread.of([one / other for one, other in zip(self.seconds[name], self.seconds[to], strict=True)])


def timed(ways: Mapping[str, Way | Missing], *, rounds: int, warm_ups: int = 1) -> Timings:
    """Time the ways; one that fails while it warms up is missing."""
    missing = {name: way.reason for name, way in ways.items() if isinstance(way, Missing)}
    ready: dict[str, Way] = {}
    for name, way in ways.items():
        if not isinstance(way, Missing):
            warmed = attempt(lambda way=way: [way() for _ in range(warm_ups)])
            if isinstance(warmed, Missing):
                missing[name] = warmed.reason
            else:
                ready[name] = way
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    names = list(ready)
    for number in range(rounds):
        first = number % max(1, len(names))
        for name in names[first:] + names[:first]:
            seconds[name].append(seconds_of(ready[name]))
    return Timings(seconds, missing)


def attempt(make: Callable[[], object]) -> object:
    """The result of `make`, or `Missing` with the reason; the traceback goes to standard error."""
    try:
        return make()
    except Exception as error:  # any: a peer that fails is a row that says so
        traceback.print_exc(file=sys.stderr)
        first = next(iter(str(error).strip().splitlines()), "")
        return Missing(f"{type(error).__name__}: {first}"[:160])


def seconds_of(way: Way) -> float:
    """Duration of a call, its work on a GPU included."""
    synchronize()
    started = time.perf_counter()
    way()
    synchronize()
    return time.perf_counter() - started


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def growth(costs: Mapping[float, Spread | None]) -> str:
    """The exponent p of cost ~ size^p between the smallest and the largest size measured, as text."""
    known = sorted((size, cost.median) for size, cost in costs.items() if cost is not None)
    if len(known) < 2:
        return NOT_MEASURED
    (small, low), (large, high) = known[0], known[-1]
    return f"{log(high / low) / log(large / small):.2f}"


def shown(spread: Spread | None, *, unit: float = 1.0) -> str:
    """A spread over `unit` in three digits: "704 [698, 713]"."""
    if spread is None:
        return NOT_MEASURED
    median, lower, upper = (_three_digits(value / unit) for value in spread)
    return f"{median} [{lower}, {upper}]"


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


@dataclass(frozen=True)
class Table:
    """A table with its heading and a note under it, printed as Markdown."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def __str__(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        return f"### {self.title}\n\n{table}\n" + (f"\n{self.note}\n" if self.note else "")


def reasons(timings: Timings) -> str:
    """The ways that were not measured, and why."""
    return "; ".join(f"{name}: {NOT_MEASURED} ({reason})" for name, reason in timings.missing.items())
