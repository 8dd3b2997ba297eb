"""Early stopping: training ends when a held-out metric has not risen for a while."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..distributed import on_any_process, this_process, wait_for_everyone
from ..run_directory import mark_best, read_best


@dataclass(frozen=True)
class EarlyStopping:
    """Watches one metric. Its memory is the mark of the run's best checkpoint, which a resumed training finds again."""

    directory: Path
    """Run directory."""
    metric: str
    patience: int
    """Iterations without a new best value after which training ends."""

    def update(self, iteration: int, value: float | None, save: Callable[[], None]) -> bool:
        """Save and mark the checkpoint of a new best value; True if the training should end.

        value: of the metric after `iteration` updates, on the main process at least; None: nothing was measured.
        """
        best = read_best(self.directory)
        is_main = this_process().is_main
        is_best = is_main and value is not None and (best is None or value > best[1])
        if on_any_process(torch.tensor(is_best))[0]:
            save()
            if is_best and value is not None:
                mark_best(self.directory, iteration, metric=self.metric, value=value)
            wait_for_everyone()
            best = read_best(self.directory)
        return best is not None and iteration - best[0] >= self.patience
