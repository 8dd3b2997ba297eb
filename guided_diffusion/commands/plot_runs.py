"""Plot the curves of training runs: python scripts/plot_runs.py --runs '[runs/diffusion]' --out curves.png"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..config import run_command
from ..files import atomic_write
from ..records import DamagedRecordError, check_record, parse_record

NOT_DRAWN = {"iteration", "observed", "images_per_second"}
"""Fields of metrics.jsonl without a panel."""
COLUMNS = 3


@dataclass(frozen=True, kw_only=True)
class PlotConfig:
    """Draw the curves of one training run, or of several in the same panels."""

    runs: tuple[Path, ...]
    """Run directories, as '[runs/a,runs/b]'."""
    out: Path
    """PNG to write."""
    smoothing: int = 1
    """Lines of metrics.jsonl to average for each point of a curve; 1: none."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("runs names no training run; give at least one, such as --runs '[runs/diffusion]'")
        if self.smoothing < 1:
            raise ValueError(f"smoothing must be at least 1, got {self.smoothing}")
        if self.out.suffix != ".png":
            raise ValueError(f"out is a PNG to write, such as curves.png; got {self.out}")


def plot_runs(config: PlotConfig) -> None:
    """Write the picture, with a panel for each number that any of the runs has logged.

    Raises:
        ValueError: runs that logged nothing yet.
    """
    from matplotlib.figure import Figure  # here, because it takes half a second to import

    curves = {run: smoothed(read_curves(run), config.smoothing) for run in config.runs}
    names = sorted({name for of_run in curves.values() for name in of_run}, key=lambda name: (name != "loss", name))
    if not names:
        raise ValueError(f"{config.runs[0]} has recorded nothing yet; it does every training.log_every_iterations")
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.9 * rows), layout="constrained")
    for place, name in enumerate(names, start=1):
        axis = figure.add_subplot(rows, columns, place)
        for run, of_run in curves.items():
            if name in of_run:
                marker = "." if len(of_run[name]) < 30 else None
                axis.plot(*zip(*of_run[name], strict=True), marker=marker, label=str(run))
        axis.set(title=name, xlabel="iteration")
        axis.grid(alpha=0.3)
    if len(config.runs) > 1:
        figure.axes[0].legend()
    with atomic_write(config.out) as file:
        figure.savefig(file, format="png", dpi=110)
    print(f"{config.out}: {', '.join(names)}")


def read_curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The points (iteration, value) of every number that a run has logged.

    Raises:
        FileNotFoundError: no metrics.jsonl there.
        ValueError: a line that is no record of numbers.
    """
    file = run / "metrics.jsonl"
    if not file.is_file():
        raise FileNotFoundError(f"there is no {file}; give the directory of a training run")
    content = file.read_bytes()
    curves, lines = defaultdict[str, list[tuple[int, float]]](list), content.splitlines()
    for number, line in enumerate(lines, start=1):
        source = f"line {number} of {file}"
        try:
            metrics = parse_record(line, {"iteration": int}, source=source)
            check_record(metrics, dict.fromkeys(metrics.keys() - {"observed"}, float), source=source)
        except DamagedRecordError as error:
            if number == len(lines) and not content.endswith(b"\n"):  # a run in progress, or killed within a line
                break
            raise ValueError(f"{error}; remove it") from None
        for name in metrics.keys() - NOT_DRAWN:
            curves[name].append((int(metrics["iteration"]), float(metrics[name])))
    return curves


def smoothed(curves: Mapping[str, Sequence[tuple[int, float]]], length: int) -> dict[str, list[tuple[int, float]]]:
    """Means of `length` points, at the iteration of the last; the end may be a mean of fewer."""
    parts = {name: [points[i : i + length] for i in range(0, len(points), length)] for name, points in curves.items()}
    return {name: [(part[-1][0], sum(y for _, y in part) / len(part)) for part in of] for name, of in parts.items()}


main = partial(run_command, PlotConfig, plot_runs)
