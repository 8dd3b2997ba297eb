"""The checkpoints of a run: names, listing, the best and the newest, deletion; `checkpoint` reads and writes them."""

import re
from pathlib import Path

from .files import remove_directory, write_json
from .records import read_record

_NAME = re.compile(r"checkpoint-\d{7,}")
_BEST = "best.json"


def checkpoint_name(iteration: int) -> str:
    """Name of an iteration's checkpoint in its run directory."""
    return f"checkpoint-{iteration:07d}"


def number(path: Path) -> int | None:
    """The iteration that a checkpoint's name tells; None for another name."""
    return int(path.name.removeprefix("checkpoint-")) if _NAME.fullmatch(path.name) else None


def checkpoints(run_dir: Path) -> list[Path]:
    """The checkpoint directories of a run, oldest first."""
    return [path for path in _named(run_dir) if path.is_dir()]


def no_directories(run_dir: Path) -> list[Path]:
    """Files and dangling links that have the name of a checkpoint newer than the newest one."""
    newest = latest(run_dir)
    named = _named(run_dir)
    return named[named.index(newest) + 1 :] if newest is not None else named


def _named(run_dir: Path) -> list[Path]:
    named = [(iteration, path) for path in run_dir.glob("checkpoint-*") if (iteration := number(path)) is not None]
    return [path for _, path in sorted(named)]


def latest(run_dir: Path) -> Path | None:
    """The newest checkpoint directory of a run, or None."""
    return next(reversed(checkpoints(run_dir)), None)


def snapshots(run_dir: Path) -> Path:
    """The run directory of a run's snapshots, checkpoints of its power-function averages alone, which are all kept."""
    return run_dir / "snapshots"


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
        remove_directory(aside)
    path.rename(aside)
    return aside


def mark_best(run_dir: Path, iteration: int, *, metric: str, value: float) -> None:
    """Make later commands take this checkpoint of a run rather than the newest."""
    record = {"checkpoint": checkpoint_name(iteration), "iteration": iteration, "metric": metric, "value": value}
    write_json(run_dir / _BEST, record)


def read_best(run_dir: Path) -> tuple[int, float] | None:
    """Iteration and value of a run's best checkpoint; None where none is marked or it is gone."""
    if not (run_dir / _BEST).is_file():
        return None
    record = read_record(run_dir / _BEST, {"checkpoint": str, "iteration": int, "value": float})
    is_there = (run_dir / record["checkpoint"]).is_dir()
    return (record["iteration"], record["value"]) if is_there else None


def best(run_dir: Path) -> Path | None:
    """The checkpoint directory that `mark_best` marked, or None."""
    found = read_best(run_dir)
    return run_dir / checkpoint_name(found[0]) if found else None
