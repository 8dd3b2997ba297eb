"""What a training run tells of itself: running means, a progress bar, lines for the tracker."""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor
from tqdm import tqdm

from ..checkpoint import latest
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
            total=total_iterations, initial=start_iteration, unit="it", desc=run_dir.name, disable=tracker is None
        )
        self._begin_interval(start_iteration)

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bar.close()
        if self.tracker is not None:
            self.tracker.close()

    def add(self, values: Mapping[str, Tensor]) -> None:
        """One micro-batch's numbers, () each."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value.detach()
        self.count += 1

    def advance(self) -> None:
        """One iteration is done."""
        self.bar.update()

    def write(self, iteration: int) -> None:
        """Record the means since the last line, over all processes.

        Raises:
            ValueError: a loss that is not finite.
        """
        names = sorted(self.sums)
        means = self.mean_over_processes(torch.stack([self.sums[name] for name in names]) / self.count)
        metrics = dict(zip(names, means.tolist(), strict=True))
        if not math.isfinite(metrics["loss"]):
            raise ValueError(f"the loss became {metrics['loss']} by iteration {iteration}; {remedy(self.run_dir)}")
        elapsed = time.perf_counter() - self.since
        metrics["images_per_second"] = (iteration - self.since_iteration) * self.batch_size / elapsed
        self.bar.set_postfix(loss=f"{metrics['loss']:.4f}", images_per_s=f"{metrics['images_per_second']:.0f}")
        if self.tracker is not None:
            self.tracker.log(iteration, metrics)
        self._begin_interval(iteration)

    def write_observed(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Record and show what was measured beside the training."""
        if metrics and self.tracker is not None:
            self.tracker.log(iteration, metrics)
            self.bar.write(f"iteration {iteration}: " + ", ".join(f"{k} {v:.4g}" for k, v in metrics.items()))

    def end(self, iteration: int, *, start_iteration: int) -> None:
        """Say how the run ended, where that is not plain to see."""
        if self.tracker is None:
            return
        if iteration < self.total_iterations:
            self.bar.write(f"stopped at iteration {iteration}, saved; continue with --resume auto")
        elif start_iteration >= self.total_iterations:
            self.bar.write(f"{self.run_dir} is at iteration {iteration} of {self.total_iterations}: nothing to do")

    def _begin_interval(self, iteration: int) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0
        self.since, self.since_iteration = time.perf_counter(), iteration


def remedy(run_dir: Path) -> str:
    """What to do about numbers that are not finite."""
    settings = "a lower learning rate, max_grad_norm, or float32"
    if latest(run_dir) is None:
        return f"{run_dir} holds no checkpoint yet: begin again with {settings}"
    return f"the checkpoints in {run_dir} are from before: resume with {settings}"
