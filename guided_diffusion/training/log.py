"""What a training run tells of itself: running means, a progress bar, lines for the trackers."""

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor
from tqdm import tqdm

from ..run_directory import latest
from .step import Updated
from .tracking import Tracker


class TrainingLog:
    """Running means of what an objective reports; the main process, which has the tracker, shows and records them."""

    def __init__(
        self,
        run_dir: Path,
        *,
        total_iterations: int,
        start_iteration: int,
        batch_size: int,
        tracker: Tracker | None,
        mean_over_processes: Callable[[Tensor], Tensor],
    ) -> None:
        self.run_dir, self.total_iterations, self.batch_size = run_dir, total_iterations, batch_size
        self.tracker, self.mean_over_processes = tracker, mean_over_processes
        self.bar = tqdm(
            total=total_iterations,
            initial=start_iteration,
            unit="it",
            desc=run_dir.name,
            disable=tracker is None,
            mininterval=0.1 if sys.stderr.isatty() else 60.0,  # a month of bars would fill a log file
        )
        self.broken_in_a_row = 0
        self._begin_interval(start_iteration)

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bar.close()
        if self.tracker is not None:
            self.tracker.close()

    def add(self, updated: Updated) -> None:
        """One iteration is done."""
        self.bar.update()
        if updated.numbers is None:
            self.skipped += 1
            self.broken_in_a_row += not updated.is_overflow
            return
        self.broken_in_a_row = 0
        for name, value in updated.numbers.items():
            total, count = self.sums.get(name, (torch.zeros_like(value), 0))
            self.sums[name] = total + value.detach(), count + 1

    def write(self, iteration: int) -> None:
        """Record the means since the last line, over all processes."""
        metrics: dict[str, float] = {}
        if self.sums:
            names = sorted(self.sums)
            means = torch.stack([total / count for total, count in (self.sums[name] for name in names)])
            metrics |= dict(zip(names, self.mean_over_processes(means).tolist(), strict=True))
        if self.skipped:
            metrics["skipped"] = self.skipped
        metrics["images_per_second"] = self._images_per_second(iteration)
        shown = {name: f"{metrics[name]:.4g}" for name in ("loss", "images_per_second", "skipped") if name in metrics}
        self.bar.set_postfix(shown)
        if self.tracker is not None:
            self.tracker.log(iteration, metrics)
        self._begin_interval(iteration)

    def write_observed(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Record and show what was measured beside the training."""
        if metrics and self.tracker is not None:
            self.tracker.log(iteration, {"observed": True, **metrics})
            self.say(f"iteration {iteration}: " + ", ".join(f"{k} {v:.4g}" for k, v in metrics.items()))

    def say(self, text: str) -> None:
        """A line for whoever watches."""
        if self.tracker is not None:
            self.bar.write(text)

    def _images_per_second(self, iteration: int) -> float:
        return (iteration - self.since_iteration) * self.batch_size / (time.perf_counter() - self.since)

    def _begin_interval(self, iteration: int) -> None:
        self.sums: dict[str, tuple[Tensor, int]] = {}
        self.skipped = 0
        self.since, self.since_iteration = time.perf_counter(), iteration


def remedy(run_dir: Path) -> str:
    """What to do about numbers that are not finite."""
    settings = "a lower learning rate, max_grad_norm, or float32"
    if latest(run_dir) is None:
        return f"{run_dir} holds no checkpoint yet: begin again with {settings}"
    return f"the checkpoints in {run_dir} are from before: resume with {settings}"
