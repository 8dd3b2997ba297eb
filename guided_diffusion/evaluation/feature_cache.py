"""What was measured of a set so far, on disk, so that a killed evaluation goes on where it was.

A part is a safetensors file of the features of consecutive batches, named after the first of them. Processes need not
speak of parts: each takes those that fit its share, so that another number of processes can go on as well.
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


class Parts:
    """Reads parts, and writes one whenever enough waits to be worth a file; a set that is soon measured leaves none.

    They are insurance: where they cannot be written, a warning says so and the work goes on.
    """

    def __init__(self, directory: Path, *, every_seconds: float = 20.0, most_images: int = 8192) -> None:
        """directory: appears with the first part. most_images: how many wait in memory at most, whatever the time."""
        self.directory = directory
        self.every_seconds = every_seconds
        self.most_images = most_images
        self._waiting: dict[str, Tensor] = {}
        self._sizes: list[int] = []
        self._first = 0
        self._written_at = time.monotonic()
        self._can_write = True

    def stored(self, first: int, last: int) -> list[Row]:
        """The batches of the part that begins with number `first`; none if there is no whole one, or if it reaches
        beyond batch `last`."""
        path = self._path(first)
        if not path.is_file():
            return []
        try:
            rows = list(_rows(read_tensors(path)))
        except (DamagedCheckpointError, KeyError):
            return []  # it is computed anew
        return rows if first + len(rows) <= last else []

    def add(self, batch: int, row: Row) -> None:
        """Note a batch that was computed. Those noted between two calls of `flush` follow one another."""
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
        """Write what waits."""
        if self._sizes:
            waiting = {kind: room[: sum(self._sizes)] for kind, room in self._waiting.items()}
            try:
                with atomic_write(self._path(self._first)) as file:
                    file.write(save(waiting | {_BATCH_SIZES: torch.tensor(self._sizes)}))
            except OSError as error:
                self._can_write = False
                _logger.warning("if killed, this begins anew: %s cannot be written (%s)", self.directory, error)
        self._sizes = []
        self._written_at = time.monotonic()

    def _room(self, kind: str, rows: Tensor) -> Tensor:
        """Where rows of that kind wait: one array, since many small ones would keep batches of images between them from
        being given back to the system."""
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
