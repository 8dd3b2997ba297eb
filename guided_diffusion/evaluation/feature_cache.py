"""Cache of extracted features on disk; an interrupted evaluation resumes from it.

A part is a safetensors file of the features of consecutive batches, named after the first of them. Each process takes
the parts that fit its share of the batches, so another number of processes can resume as well.
"""

import logging
import time
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from ..checkpoint import DamagedCheckpointError, read_tensors
from ..files import atomic_write
from .extractors.features import Features

Row = tuple[Features, Tensor | None]
"""The features of a batch, and its labels if there are any."""

_KINDS = ("pooled", "spatial", "probabilities")
_BATCH_SIZES = "batch_sizes"

_logger = logging.getLogger(__name__)


class FeatureCache:
    """Reads parts, and writes one whenever enough batches wait; a set that is measured quickly leaves none.

    Where parts cannot be written, a warning is logged and the work goes on.
    """

    def __init__(self, directory: Path, *, every_seconds: float = 20.0, most_images: int = 8192) -> None:
        """directory: created with the first part. most_images: limit of those that wait in memory."""
        self.directory = directory
        self.every_seconds = every_seconds
        self.most_images = most_images
        self._waiting: list[dict[str, Tensor]] = []
        self._first = 0
        self._written_at = time.monotonic()
        self._can_write = True

    def stored(self, first: int, last: int) -> list[Row]:
        """The batches of the part that begins with number `first`; empty if there is no undamaged one that ends before
        batch `last`."""
        path = self._path(first)
        if not path.is_file():
            return []
        try:
            tensors = read_tensors(path)
            sizes: list[int] = tensors.pop(_BATCH_SIZES).tolist()
        except (DamagedCheckpointError, KeyError):
            return []  # these batches are extracted again
        if first + len(sizes) > last:
            return []
        batches = {kind: values.split(sizes) for kind, values in tensors.items()}
        rows = [{kind: values[n] for kind, values in batches.items()} for n in range(len(sizes))]
        labels = [row.pop("labels", None) for row in rows]
        return [(Features(**row), label) for row, label in zip(rows, labels, strict=True)]

    def add(self, batch: int, row: Row) -> None:
        """Add a batch; those added between two calls of `flush` are consecutive."""
        if not self._can_write:
            return
        kinds = {kind: getattr(row[0], kind) for kind in _KINDS} | {"labels": row[1]}
        values = {kind: rows.cpu() for kind, rows in kinds.items() if rows is not None}
        if sum(self._sizes) + len(values["pooled"]) > self.most_images:
            self.flush()
        if not self._waiting:
            self._first = batch
        self._waiting.append(values)
        if time.monotonic() - self._written_at >= self.every_seconds:
            self.flush()

    def flush(self) -> None:
        """Write the batches that wait."""
        if self._waiting:
            whole = {kind: torch.cat([values[kind] for values in self._waiting]) for kind in self._waiting[0]}
            try:
                with atomic_write(self._path(self._first)) as file:
                    file.write(save(whole | {_BATCH_SIZES: torch.tensor(self._sizes)}))
            except OSError as error:
                self._can_write = False
                _logger.warning("an interrupted evaluation will start over: %s: %s", self.directory, error)
        self._waiting = []
        self._written_at = time.monotonic()

    @property
    def _sizes(self) -> list[int]:
        return [len(values["pooled"]) for values in self._waiting]

    def _path(self, first: int) -> Path:
        return self.directory / f"part-{first:07d}.safetensors"
