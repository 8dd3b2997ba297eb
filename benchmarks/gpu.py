"""The rows of a GPU in one short command, for a machine that is rented for minutes: the most important ones first.

    OUT=. python benchmarks/gpu.py --budget 340          # 6 minutes with its start; tables in $OUT/gpu.md
    OUT=. python benchmarks/gpu.py --rows guided64 cifar10 ...      # those that the budget left out
    OUT=. python benchmarks/gpu.py --device cpu --tiny   # a trial of all rows without a GPU, in a minute

Compiling takes most of the time: a minute for each forward pass, more for gradients. Compiled code is kept in
~/.cache/guided-diffusion, so a second command on the same machine compiles nothing again. The library's own
requirements must be there, and diffusers for its rows. A machine without a package index can be given them as wheels,
fetched elsewhere (here for Python 3.12):

    pip download --no-deps --only-binary=:all: --python-version 3.12 -d wheels jsonargparse docstring-parser \
        typeshed-client diffusers importlib-metadata zipp
    python3 -m pip install -q --no-index --no-deps --target /tmp/site wheels/*.whl
    PYTHONPATH=/tmp/site:. OUT=. python3 benchmarks/gpu.py

Without jsonargparse the rows of our defaults fail and say so; those of the bare networks do not need it. Each row has a
limit of time. Figures of the published code are quoted, from another run on an H100 80GB with torch 2.11, not measured
here.
"""

import argparse
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import torch

COLUMNS = ("work", "way", "images/s", "ms", "TFLOP/s", "peak GiB", "remarks")


class TimeUpError(BaseException):
    """The limit of a row is over. No `Exception`, which a way that fails is caught by."""


class Report:
    """Rows of the table, printed and written to a file as they come."""

    def __init__(self, file: Path, head: list[str]) -> None:
        self.file, self.started = file, time.monotonic()
        self._write("\n".join(["# Measured on a GPU", "", *(f"- {line}" for line in head), ""]), mode="w")
        self.add(COLUMNS)
        self.add(["---"] * len(COLUMNS))

    def add(self, cells: "tuple[str, ...] | list[str]") -> None:
        """Add a row; cells that are left out are empty."""
        padded = [*cells, *[""] * (len(COLUMNS) - len(cells))]
        self._write(f"| {' | '.join(cell.replace('|', '/') for cell in padded)} |")

    def _write(self, text: str, mode: str = "a") -> None:
        print(text, flush=True)
        with self.file.open(mode) as file:
            file.write(f"{text}\n")

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.started


def main() -> None:
    """Make the rows until the budget is spent."""
    options = parsed(sys.argv[1:])
    if options.device == "cpu":
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    from gpu_rows import ROWS, Sizes
    from machine import description

    command = " ".join(["benchmarks/gpu.py", *sys.argv[1:]])
    head = [*description(), f"Date: {time.strftime('%Y-%m-%d %H:%M')}; `python {command}`"]
    report, sizes = Report(Path(os.environ.get("OUT", ".")) / "gpu.md", head), Sizes(tiny=options.tiny)
    chosen = options.rows or list(ROWS)
    for name in chosen:
        row, limit = ROWS[name]
        left = options.budget - report.seconds
        if left < 5:
            report.add([name, "", "not measured", "", "", "", "the budget is spent"])
            continue
        attempt(report, name, lambda row=row: row(sizes), limit=min(limit, left))
    report.add(["end", "", "", "", "", "", f"{report.seconds:.0f} s"])


def parsed(arguments: list[str]) -> argparse.Namespace:
    """The command line. Not by jsonargparse, which a rented machine may lack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=340, help="seconds in all")
    parser.add_argument("--rows", nargs="+", help="rows to make, in this order; default: all")
    parser.add_argument("--device", choices=["auto", "cpu"], default="auto")
    parser.add_argument("--tiny", action="store_true", help="networks that take milliseconds")
    return parser.parse_args(arguments)


def attempt(report: Report, name: str, row: "Callable[[], Iterator[list[str]]]", *, limit: float) -> None:
    """Add the lines of a row; if it fails or takes too long, a line that says so in their place."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeUpError(f"stopped after {limit:.0f} s")

    started = time.monotonic()
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(max(1, int(limit)))
    try:
        for line in row():
            report.add(line)
    except (Exception, TimeUpError) as error:  # any: the next rows matter too
        traceback.print_exc()
        first = next(iter(str(error).strip().splitlines()), "")
        report.add([name, "", "not measured", "", "", "", f"{type(error).__name__}: {first}"[:300]])
    finally:
        signal.alarm(0)
        released()
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def released() -> None:
    """Give back what a row has left behind."""
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
