"""Where a run's numbers go: a line of JSON each, and TensorBoard and Weights & Biases if asked."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker

from ..files import atomic_write

WandbMode = Literal["off", "online", "offline"]


class Tracker:
    """Metrics of one run. metrics.jsonl holds nothing twice: a resumed run first drops what comes after its start."""

    def __init__(self, run_dir: Path, *, start_iteration: int, others: list[GeneralTracker]) -> None:
        self.file = run_dir / "metrics.jsonl"
        self._drop_after(start_iteration)
        self.others = others

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Record metrics of the run after `iteration` updates."""
        with self.file.open("a") as file:
            file.write(json.dumps({"iteration": iteration, **metrics}) + "\n")
        for tracker in self.others:
            tracker.log(dict(metrics), step=iteration)

    def has_observed(self, iteration: int) -> bool:
        """Whether a line tells of what was measured beside the training after `iteration` updates."""
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return any(_iteration_of(line) == iteration and "observed" in json.loads(line) for line in lines)

    def close(self) -> None:
        """Hand the rest to the others."""
        for tracker in self.others:
            tracker.finish()

    def _drop_after(self, iteration: int) -> None:
        if not self.file.exists():
            return
        kept = [line for line in self.file.read_text().splitlines() if _iteration_of(line) <= iteration]
        with atomic_write(self.file) as file:
            file.write("".join(line + "\n" for line in kept).encode())


def _iteration_of(line: str) -> float:
    """A line cut off by a crash counts as infinitely late, so that it is dropped."""
    try:
        return json.loads(line)["iteration"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")


def tensorboard(run_dir: Path, *, start_iteration: int) -> GeneralTracker:
    """TensorBoard's event files in run_dir/tensorboard; a resumed run hides what comes after its start.

    Raises:
        ModuleNotFoundError: TensorBoard is not installed.
    """
    try:
        import tensorboard as _  # noqa: F401  # torch's own message does not say what to install
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError("training.tensorboard needs TensorBoard: pip install tensorboard") from missing
    tracker = TensorBoardTracker("tensorboard", logging_dir=run_dir, purge_step=start_iteration + 1)
    tracker.start()
    return tracker


def wandb(run_dir: Path, *, mode: Literal["online", "offline"], project: str, run: Mapping[str, Any]) -> GeneralTracker:
    """A run of Weights & Biases. One directory, one run: a resumed training continues its own curves.

    Raises:
        ValueError: nobody is logged in, or the service refuses.
    """
    from wandb.errors import Error

    identity = run_dir / "wandb_run_id"
    if not identity.exists():
        identity.write_text(uuid4().hex[:8])
    tracker = WandBTracker(
        project,
        name=run_dir.name,
        dir=run_dir,
        id=identity.read_text(),
        resume="allow",
        mode=mode,
        config=dict(run),
    )
    try:
        tracker.start()
    except Error as refusal:
        raise ValueError(
            f"Weights & Biases cannot be used ({refusal}); log in with `wandb login`, or give --training.wandb offline"
        ) from refusal
    return tracker
