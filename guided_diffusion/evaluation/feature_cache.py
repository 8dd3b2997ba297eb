"""Cache of extracted features on disk; an interrupted evaluation resumes from it.

A part is a safetensors file of the features of consecutive batches, named after the first of them. Each process takes
the parts that fit its share of the batches, so another number of processes can resume as well.
"""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from ..checkpoint import DamagedCheckpointError, read_tensors
from ..files import atomic_write
from .extractors.features import Features

Row = tuple[Features, Tensor | None]
"""The features of a batch, and its labels if there are any."""

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
        self._waiting: dict[str, Tensor] = {}
        self._sizes: list[int] = []
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
            rows = list(_rows(read_tensors(path)))
        except (DamagedCheckpointError, KeyError):
            return []  # these batches are extracted again
        return rows if first + len(rows) <= last else []

    def add(self, batch: int, row: Row) -> None:
        """Add a batch; those added between two calls of `flush` are consecutive."""
        if not self._can_write:
            return
        values = _named(row)
        length = len(values["pooled"])
        if sum(self._sizes) + length > self.most_images:
            self.flush()
        if not self._sizes:
            self._first = batch
        start = sum(self._sizes)
        for kind, rows in values.items():
            self._room(kind, rows)[start : start + length] = rows
        self._sizes.append(length)
        if time.monotonic() - self._written_at >= self.every_seconds:
            self.flush()

    def flush(self) -> None:
        """Write the batches that wait."""
        if self._sizes:
            waiting = {kind: room[: sum(self._sizes)] for kind, room in self._waiting.items()}
            try:
                with atomic_write(self._path(self._first)) as file:
                    file.write(save(waiting | {_BATCH_SIZES: torch.tensor(self._sizes)}))
            except OSError as error:
                self._can_write = False
                _logger.warning(
                    "an interrupted evaluation will start over: %s cannot be written (%s)", self.directory, error
                )
        self._sizes = []
        self._written_at = time.monotonic()

    def _room(self, kind: str, rows: Tensor) -> Tensor:
        """Buffer for rows of that kind: one array, since many small ones would keep the memory of image batches between
        them from being returned to the system."""
        room = self._waiting.get(kind)
        if room is None or len(room) < len(rows):
            room = self._waiting[kind] = torch.empty(
                max(self.most_images, len(rows)), *rows.shape[1:], dtype=rows.dtype
            )
        return room

    def _path(self, first: int) -> Path:
        return self.directory / f"part-{first:07d}.safetensors"


def _named(row: Row) -> dict[str, Tensor]:
    features, labels = row
    kinds = {
        "pooled": features.pooled,
        "spatial": features.spatial,
        "probabilities": features.probabilities,
        "labels": labels,
    }
    return {kind: values for kind, values in kinds.items() if values is not None}


def _rows(tensors: dict[str, Tensor]) -> Iterator[Row]:
    sizes: list[int] = tensors.pop(_BATCH_SIZES).tolist()
    batches = {kind: values.split(sizes) for kind, values in tensors.items()}
    for n in range(len(sizes)):
        row = {kind: values[n] for kind, values in batches.items()}
        labels = row.pop("labels", None)
        yield Features(**row), labels
