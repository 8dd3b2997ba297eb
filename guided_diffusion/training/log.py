"""The log of a training: running means, a progress bar, metrics.jsonl, TensorBoard and Weights & Biases."""

import errno
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import uuid4

import torch
from torch import Tensor
from tqdm import tqdm

from ..config import to_plain
from ..data.pictures import read_png
from ..distributed import reduced
from ..files import atomic_write
from ..records import DamagedRecordError, parse_record
from .run import TrainState, Update

_logger = logging.getLogger(__name__)


class Writer(NamedTuple):
    """A place for metrics besides metrics.jsonl."""

    log: Callable[[Mapping[str, float], int], None]
    """(metrics, iteration)."""
    show: Callable[[Path, int], None]
    """(picture, iteration)."""
    close: Callable[[], None]


class TrainingLog:
    """Running means of logged losses over all processes; the main process shows and records them.

    metrics.jsonl holds each line once: a resumed run first drops those after its start.
    """

    def __init__(self, state: TrainState) -> None:
        run, start = state.run, state.start_iteration
        self.is_main, self.batch_size = state.process.is_main, run.config.batch.size
        self.file, self.writers = run.directory / "metrics.jsonl", list[Writer]()
        if self.is_main:
            if self.file.exists():
                kept = [line for line in read_metrics(self.file) if line["iteration"] <= start]
                with atomic_write(self.file) as file:
                    file.write("".join(json.dumps(line) + "\n" for line in kept).encode())
            if run.config.tensorboard:
                self.writers.append(tensorboard(run.directory, start))
            if run.config.wandb != "off":
                settings = to_plain(run.settings)
                self.writers.append(wandb(run.directory, run.config.wandb, run.config.wandb_project, settings))
        seconds = 0.1 if sys.stderr.isatty() else 60.0  # a month of bars would fill a log file
        self.bar = tqdm(
            total=run.config.total_iterations, initial=start, unit="it", desc=run.directory.name,
            disable=not self.is_main, mininterval=seconds,
        )  # fmt: skip
        self._begin_interval(start)

    def close(self) -> None:
        """Remove the bar, and send what the writers still hold."""
        self.bar.close()
        for writer in self.writers:
            writer.close()

    def add(self, updated: Update) -> None:
        """Count an iteration."""
        self.bar.update()
        if not updated.is_finite:
            self.skipped += 1
            return
        for name, value in updated.numbers.items():
            total, count = self.sums.get(name, (torch.zeros_like(value), 0))
            self.sums[name] = total + value.detach(), count + 1

    def write(self, state: TrainState) -> None:
        """Record the means since the last line, over all processes."""
        iteration = state.iteration
        metrics: dict[str, float] = {}
        if self.sums:
            names = sorted(self.sums)
            means = torch.stack([total / count for total, count in (self.sums[name] for name in names)])
            metrics |= dict(zip(names, reduced(means, "mean").tolist(), strict=True))
        if self.skipped:
            metrics["skipped"] = self.skipped
        images = (iteration - self.since_iteration) * self.batch_size
        seconds = time.perf_counter() - self.since
        metrics["images_per_second"] = images / seconds
        metrics["waiting_for_images"], state.waited = state.waited / seconds, 0.0
        shown = {name: f"{metrics[name]:.4g}" for name in ("loss", "images_per_second", "skipped") if name in metrics}
        self.bar.set_postfix(shown)
        self._record(iteration, metrics)
        self._begin_interval(iteration)

    def write_observed(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Record and show the metrics of an observation."""
        if metrics:
            self._record(iteration, {"observed": True, **metrics}, preview_file(self.file.parent, iteration))
            self.say(f"iteration {iteration}: " + ", ".join(f"{k} {v:.4g}" for k, v in metrics.items()))

    def lacks_observation(self, iteration: int) -> bool:
        """True on the main process if no line holds an observation after `iteration` updates."""
        found = (line["iteration"] == iteration and "observed" in line for line in read_metrics(self.file))
        return self.is_main and not any(found)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self.is_main:
            self.bar.write(text, file=sys.stderr)  # a reader of standard output that goes away would end the training

    def _record(self, iteration: int, metrics: Mapping[str, float], picture: Path | None = None) -> None:
        if not self.is_main:
            return
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}  # JSON has no others
        try:
            _append_line(self.file, json.dumps({"iteration": iteration, **finite}))
            for writer in self.writers:
                writer.log(finite, iteration)
                if picture is not None and picture.is_file():
                    writer.show(picture, iteration)
        except OSError as error:
            _logger.warning("metrics of iteration %d are not recorded: %s", iteration, error)

    def _begin_interval(self, iteration: int) -> None:
        self.sums: dict[str, tuple[Tensor, int]] = {}
        self.skipped = 0
        self.since, self.since_iteration = time.perf_counter(), iteration


def preview_file(run_dir: Path, iteration: int) -> Path:
    """Place of the picture of an observation."""
    return run_dir / "previews" / f"{iteration:07d}.png"


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, if there is one, but damaged ones, such as one that a crash cut off."""
    lines = list[dict[str, Any]]()
    for line in file.read_bytes().splitlines() if file.exists() else ():
        with suppress(DamagedRecordError):
            lines.append(parse_record(line, {"iteration": int}, source=file))
    return lines


def _append_line(file: Path, line: str) -> None:
    """Append a line, or nothing: the part of it that a full disk took would spoil the next one."""
    with file.open("ab", buffering=0) as stream:
        size = stream.tell()
        try:
            if stream.write(f"{line}\n".encode()) <= len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        except OSError:
            stream.truncate(size)
            raise


def tensorboard(run_dir: Path, start_iteration: int) -> Writer:
    """Event files in run_dir/tensorboard; a resumed run hides those after its start.

    Raises:
        ModuleNotFoundError: TensorBoard is not installed.
    """
    try:
        import tensorboard as _  # noqa: F401  # first, since torch's module may be imported already
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as missing:  # torch's own message does not say what to install
        raise ModuleNotFoundError("training.tensorboard needs TensorBoard: pip install tensorboard") from missing
    writer: Any = SummaryWriter(run_dir / "tensorboard", purge_step=start_iteration + 1)  # partly untyped

    def log(metrics: Mapping[str, float], iteration: int) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, global_step=iteration)
        writer.flush()

    def show(picture: Path, iteration: int) -> None:
        writer.add_image("previews", read_png(picture), global_step=iteration)
        writer.flush()

    return Writer(log, show, writer.close)


def wandb(run_dir: Path, mode: Literal["online", "offline"], project: str, settings: Mapping[str, Any]) -> Writer:
    """A run of Weights & Biases, one for each run directory: a resumed training continues its curves.

    Raises:
        ValueError: nobody is logged in, or the service refuses.
    """
    import wandb
    from wandb.errors import Error

    identity = run_dir / "wandb_run_id"
    if not identity.exists():
        identity.write_text(uuid4().hex[:8])
    try:
        run = wandb.init(
            project=project, name=run_dir.name, dir=run_dir, id=identity.read_text(), resume="allow", mode=mode,
            config=dict(settings),
        )  # fmt: skip
    except Error as refusal:
        raise ValueError(
            f"Weights & Biases cannot be used ({refusal}); log in with `wandb login`, or give --training.wandb offline"
        ) from refusal

    def show(picture: Path, iteration: int) -> None:
        run.log({"previews": wandb.Image(str(picture))}, step=iteration)

    return Writer(lambda metrics, iteration: run.log(dict(metrics), step=iteration), show, run.finish)
