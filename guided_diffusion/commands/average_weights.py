"""Averages of other widths: python scripts/average_weights.py runs/photos --widths 0.03 0.15 --out runs/averages"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import run_command
from ..weight_averages import check_widths

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint
    from ..training.reconstruction import Fit, StoredAverage

MOST_ERROR = 0.3
"""Relative error of a profile above which no weights are written."""
DOUBTFUL_ERROR = 0.05


@dataclass(frozen=True, kw_only=True)
class AveragingConfig:
    """Reconstruct power-function averages of any width from those that a training kept."""

    run: Path
    """Run directory, or a checkpoint in it, of a training with --training.ema_widths and
    --training.snapshot_every_iterations; the averages are those at its iteration."""
    widths: tuple[float, ...]
    """Relative widths of the averages to make: standard deviations as shares of the training, such as 0.03 0.07 0.15.
    The weights are named ema_power_0.03 and so on."""
    out: Path
    """Run directory to write, with one checkpoint that holds these weights; it must not hold another one yet."""

    def __post_init__(self) -> None:
        check_widths(self.widths, option="widths")
        if not self.widths:
            raise ValueError("widths is empty: give at least one, such as --widths 0.15")


def average_weights(config: AveragingConfig) -> Path:
    """Write the averages as a checkpoint, print how well each is known, and return the checkpoint's directory.

    Where these very averages are there already, whole, nothing is written.

    Raises:
        ValueError: a run without power-function averages, a width that they cannot give, or an `out` with another
            checkpoint.
    """
    from tqdm import tqdm  # here, with all that needs torch, so that --help is quick

    from ..checkpoint import open_checkpoint, save_checkpoint
    from ..files import locked
    from ..training.reconstruction import combined, fit, stored_averages
    from ..training.source import KINDS

    checkpoint = open_checkpoint(config.run, *(kind for kinds in KINDS for kind in kinds))
    stored = stored_averages(checkpoint)
    _check_stored(checkpoint, stored)
    known = [(average.checkpoint.iteration, average.width) for average in stored]
    fits = [fit(known, iteration=checkpoint.iteration, width=width) for width in config.widths]
    _report(checkpoint, stored, fits)
    origin = {"of": checkpoint.name, "sha256": dict(checkpoint.sha256), "widths": list(config.widths)}
    with locked(config.out, work="averaging"):
        if path := _finished(config.out, checkpoint, origin):
            print(f"{path} holds these averages, whole already")
            return path
        with tqdm(total=len(stored), desc="averages", unit="average", leave=False, delay=2) as bar:
            weights = combined(stored, fits, advance=bar.update)
        path = save_checkpoint(
            config.out, kind=checkpoint.kind, iteration=checkpoint.iteration, model=checkpoint.model,
            run={**checkpoint.run, "averaged": origin}, weights=weights, lineage=checkpoint.lineage,
        )  # fmt: skip
    print(f"written to {path}; --weights {next(iter(weights))} takes one of them")
    return path


def _check_stored(checkpoint: "Checkpoint", stored: Sequence["StoredAverage"]) -> None:
    if not stored or stored[-1].checkpoint is not checkpoint:
        raise ValueError(
            f"{checkpoint.path} holds no power-function average; train with --training.ema_widths '[0.05,0.1]' "
            f"--training.snapshot_every_iterations, a tenth to a hundredth of the budget"
        )


def _report(checkpoint: "Checkpoint", stored: Sequence["StoredAverage"], fits: Sequence["Fit"]) -> None:
    """Print the error of each profile; refuse the widths whose error is too large."""
    iterations = {average.checkpoint.iteration for average in stored}
    print(f"{checkpoint.name}: {len(stored)} averages of {len(iterations)} iterations")
    for one in fits:
        doubt = "  (doubtful: take a width nearer to those stored)" if one.error > DOUBTFUL_ERROR else ""
        print(f"width {one.width:g}: relative error of the profile {one.error:.1e}{doubt}")
    if unknown := [one for one in fits if one.error > MOST_ERROR]:
        widths = sorted({average.width for average in stored})
        raise ValueError(
            f"the {len(stored)} stored averages cannot give width {unknown[0].width:g}: the relative error of its "
            f"profile would be {unknown[0].error:.2f}, and at most {MOST_ERROR} is taken; ask for widths nearer to "
            f"{', '.join(map(str, widths))}, or train with a smaller --training.snapshot_every_iterations"
        )


def _finished(out: Path, source: "Checkpoint", origin: object) -> Path | None:
    """The checkpoint of equal averages, its files verified: the command is repeated."""
    from ..checkpoint import open_checkpoint, verify
    from ..run_directory import latest

    if latest(out) is None:
        return None
    found = open_checkpoint(out, source.kind)
    if found.run.get("averaged") != origin:
        raise ValueError(f"{out} holds {found.path} already; give --out a new run directory")
    verify(found)
    return found.path


main = partial(run_command, AveragingConfig, average_weights, positional="run")
