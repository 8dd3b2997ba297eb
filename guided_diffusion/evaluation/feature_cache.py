"""Cache of extracted features on disk; an interrupted evaluation resumes from it.

A part holds the features of consecutive batches and is named after the first of them: a SHA-256, then a safetensors
file of that hash. Each process takes the parts that fit its share of the batches, so another number of processes can
resume as well.
"""

import logging
import time
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load, save
from torch import Tensor

from ..files import atomic_write
from .extractors.features import Features


class Row(NamedTuple):
    """Features of the images of a batch, and what else is known of each image."""

    features: Features
    labels: Tensor | None = None
    """(B,) int64; None: no image of the set has one."""
    fingerprints: Tensor | None = None
    """(B,) int64, as of `measure.fingerprints`."""


_OTHERS = ("labels", "fingerprints")
_BATCH_SIZES = "batch_sizes"
_HASH_BYTES = sha256().digest_size

_logger = logging.getLogger(__name__)


class FeatureCache:
    """Reads parts, and writes one whenever enough batches wait; a set that is measured quickly leaves none.

    Where parts cannot be written, a warning is logged and the work goes on.
    """

    def __init__(self, directory: Path, *, every_seconds: float = 20.0, most_images: int = 50_000) -> None:
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
        content = path.read_bytes()
        if content[:_HASH_BYTES] != sha256(content[_HASH_BYTES:]).digest():
            return []  # these batches are extracted again
        tensors = load(content[_HASH_BYTES:])
        sizes: list[int] = tensors.pop(_BATCH_SIZES).tolist()
        if first + len(sizes) > last:
            return []
        batches = {kind: values.split(sizes) for kind, values in tensors.items()}
        rows = [{kind: values[n] for kind, values in batches.items()} for n in range(len(sizes))]
        others = [{kind: row.pop(kind, None) for kind in _OTHERS} for row in rows]
        return [Row(Features(**row), **other) for row, other in zip(rows, others, strict=True)]

    def add(self, batch: int, row: Row) -> None:
        """Add a batch, which stays on its device until it is written; those between two calls of `flush` are
        consecutive."""
        if not self._can_write:
            return
        kinds = vars(row.features) | {kind: getattr(row, kind) for kind in _OTHERS}
        values = {kind: rows for kind, rows in kinds.items() if rows is not None}
        length = len(values["pooled"])
        if sum(len(others["pooled"]) for others in self._waiting) + length > self.most_images:
            self.flush()
        if not self._waiting:
            self._first = batch
        self._waiting.append(values | {_BATCH_SIZES: torch.tensor([length])})
        if time.monotonic() - self._written_at >= self.every_seconds:
            self.flush()

    def flush(self) -> None:
        """Write the batches that wait."""
        if self._waiting:
            whole = {kind: torch.cat([values[kind] for values in self._waiting]).cpu() for kind in self._waiting[0]}
            try:
                with atomic_write(self._path(self._first)) as file:
                    content = save(whole)
                    file.write(sha256(content).digest())
                    file.write(content)
            except OSError as error:
                self._can_write = False
                _logger.warning("an interrupted evaluation will start over: %s: %s", self.directory, error)
        self.forget()
        self._written_at = time.monotonic()

    def forget(self) -> None:
        """Drop the batches that wait, at the end of a pass, before its rows are joined."""
        self._waiting = []

    def _path(self, first: int) -> Path:
        return self.directory / f"part-{first:07d}.features"
