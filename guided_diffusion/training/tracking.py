"""Where a run's numbers go: a line of JSON each, and Weights & Biases if asked."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from ..data.shards import replaced_on_success

WandbMode = Literal["off", "online", "offline"]


class Tracker:
    """Metrics of one run. metrics.jsonl holds nothing twice: a resumed run first drops what comes after its start."""

    def __init__(
        self, run_dir: Path, *, start_iteration: int, wandb_mode: WandbMode, wandb_project: str, run: Mapping[str, Any]
    ) -> None:
        self.file = run_dir / "metrics.jsonl"
        self._drop_after(start_iteration)
        self.wandb = _start_wandb(run_dir, wandb_mode, wandb_project, run)

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Record metrics of the run after `iteration` updates."""
        with self.file.open("a") as file:
            file.write(json.dumps({"iteration": iteration, **metrics}) + "\n")
        if self.wandb is not None:
            self.wandb.log(dict(metrics), step=iteration)

    def close(self) -> None:
        """Hand the rest to Weights & Biases."""
        if self.wandb is not None:
            self.wandb.finish()

    def _drop_after(self, iteration: int) -> None:
        if not self.file.exists():
            return
        kept = [line for line in self.file.read_text().splitlines() if _iteration_of(line) <= iteration]
        with replaced_on_success(self.file) as file:
            file.write("".join(line + "\n" for line in kept).encode())


def _iteration_of(line: str) -> float:
    """A line cut off by a crash counts as infinitely late, so that it is dropped."""
    try:
        return json.loads(line)["iteration"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")


def _start_wandb(run_dir: Path, mode: WandbMode, project: str, run: Mapping[str, Any]) -> Any:  # wandb's run object
    if mode == "off":
        return None
    import wandb  # takes a second to import, which runs without it need not pay

    # One directory, one run: a resumed training continues its own curves.
    identity = run_dir / "wandb_run_id"
    if not identity.exists():
        identity.write_text(uuid4().hex[:8])
    return wandb.init(
        project=project,
        name=run_dir.name,
        dir=run_dir,
        id=identity.read_text(),
        resume="allow",
        mode=mode,
        config=dict(run),
    )
