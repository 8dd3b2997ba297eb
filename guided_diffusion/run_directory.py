"""The checkpoints of a run by their names: which there are, which is meant, which are kept.

What is inside one is the business of `checkpoint`.
"""

import errno
import fcntl
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .files import remove_directory, write_json

_NAME = re.compile(r"checkpoint-(\d{7,})")
_BEST = "best.json"


def checkpoint_name(iteration: int) -> str:
    """Name of an iteration's checkpoint in its run directory."""
    return f"checkpoint-{iteration:07d}"


@contextmanager
def claimed(run_dir: Path) -> Iterator[None]:
    """The run's directory, made if need be, for this training alone while the block runs.

    Raises:
        ValueError: another training is at work in it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN):
                raise
            raise ValueError(
                f"another training is at work in {run_dir}; wait for it, or choose another --out"
            ) from None
        yield


def is_checkpoint_name(name: str) -> bool:
    """True for the name of a checkpoint directory."""
    return _NAME.fullmatch(name) is not None


def checkpoints(run_dir: Path) -> list[Path]:
    """The checkpoint directories of a run, oldest first."""
    named = [(match, path) for path in run_dir.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(named, key=lambda pair: int(pair[0][1]))]


def latest(run_dir: Path) -> Path | None:
    """The newest checkpoint directory of a run, or None."""
    return next(reversed(checkpoints(run_dir)), None)


def prune(run_dir: Path, *, keep: int, keep_every: int | None = None) -> None:
    """Delete all but the newest `keep` checkpoints of a run, the best, and those of multiples of `keep_every`."""
    for path in checkpoints(run_dir)[:-keep]:
        is_milestone = keep_every is not None and int(path.name.removeprefix("checkpoint-")) % keep_every == 0
        if not is_milestone and path != best(run_dir):
            remove_directory(path)


def set_aside(path: Path) -> Path:
    """Give a damaged checkpoint a name under which no command looks for one, and return it."""
    aside = path.with_name(f"damaged-{path.name}")
    if aside.exists():
        shutil.rmtree(aside)
    path.rename(aside)
    return aside


def mark_best(run_dir: Path, iteration: int, *, metric: str, value: float) -> None:
    """Make later commands take this checkpoint of a run rather than the newest."""
    record = {"checkpoint": checkpoint_name(iteration), "iteration": iteration, "metric": metric, "value": value}
    write_json(run_dir / _BEST, record)


def read_best(run_dir: Path) -> tuple[int, float] | None:
    """Iteration and value of a run's best checkpoint, None where none is marked or it is gone."""
    if best(run_dir) is None:
        return None
    record = json.loads((run_dir / _BEST).read_text())
    return int(record["iteration"]), float(record["value"])


def best(run_dir: Path) -> Path | None:
    """The checkpoint directory that `mark_best` marked, or None."""
    if not (run_dir / _BEST).is_file():
        return None
    path = run_dir / json.loads((run_dir / _BEST).read_text())["checkpoint"]
    return path if path.is_dir() else None
