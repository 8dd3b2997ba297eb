"""One pass of a set of images through an extractor, shared by any number of processes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from ..data.image_set import ImageSet
from .extractors.features import FeatureExtractor, Features
from .feature_cache import Parts, Row
from .statistics import Gaussian, GaussianAccumulator, RowAccumulator

_ROWS_PER_MERGE = 512


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is known of a set of N images after its pass.

    pooled, spatial: statistics of those features. manifold: (M, D), the pooled features kept for what needs more than
    statistics. probabilities: (N, C). labels: (N,) int64, -1 where a sample has none, or None if none has. Rows are in
    the set's order. spatial and probabilities are None where the extractor has none. device: where the extractor left
    its features.
    """

    pooled: Gaussian
    spatial: Gaussian | None
    manifold: Tensor
    probabilities: Tensor | None
    labels: Tensor | None
    device: torch.device

    @property
    def order(self) -> Literal["as stored", "shuffled"]:
        """What of the order goes into splits: folders list their images class by class, and a split of few classes
        would have a small Inception Score."""
        if self.labels is None or len(self.labels.unique()) == 1:
            return "as stored"
        return "as stored" if (self.labels.diff() < 0).any() else "shuffled"


@dataclass(frozen=True, kw_only=True)
class Share:
    """This process's part of the work: number `rank` of `world_size`, on `device`; it shows a progress bar or not."""

    device: torch.device
    rank: int = 0
    world_size: int = 1
    progress: bool = False


def measure(
    source: ImageSet,
    extractor: FeatureExtractor,
    *,
    batch_size: int,
    keep: int,
    share: Share,
    name: str,
    parts: Parts | None = None,
) -> Measured:
    """Features of all images of `source`, each process extracting a run of whole batches.

    The batches are those that one process would make, and the rows come back in the source's order, so that the outcome
    does not depend on the number of processes but by float64 rounding of the statistics. Every process gets the whole
    outcome. keep: of how many images to keep the pooled features, `spread_over` the set. name: what the bar says.
    parts: what was measured before, and where what is measured goes meanwhile; None: nowhere.

    Raises ValueError if the extractor returns features of other shapes than it should, or not finite.
    """
    total = source.num_batches(batch_size)
    first, last = share.rank * total // share.world_size, (share.rank + 1) * total // share.world_size
    gathered = _Accumulators(_probe(source, extractor), device=share.device)
    is_kept = torch.zeros(len(source), dtype=torch.bool)
    is_kept[spread_over(len(source), keep=keep)] = True
    position = first * batch_size
    bar = tqdm(total=min(last * batch_size, len(source)) - position, desc=name, unit="img", disable=not share.progress)
    with bar:
        for features, labels in _measured_batches(source, extractor, batch_size, range(first, last), parts):
            length = len(features.pooled)
            gathered.update(features, labels, kept=is_kept[position : position + length])
            position += length
            bar.update(length)
    return gathered.compute()


def _measured_batches(
    source: ImageSet, extractor: FeatureExtractor, batch_size: int, numbers: range, parts: Parts | None
) -> Iterator[Row]:
    """Features and labels of the batches of these numbers, from their parts where there are any."""
    if parts is None:
        yield from _computed(source, extractor, batch_size, numbers)
        return
    batch = numbers.start
    stored = parts.stored(batch, numbers.stop)
    while batch < numbers.stop:
        if stored:
            yield from stored
            batch += len(stored)
            stored = parts.stored(batch, numbers.stop)
            continue
        for row in _computed(source, extractor, batch_size, range(batch, numbers.stop)):
            parts.add(batch, row)
            yield row
            batch += 1
            if stored := parts.stored(batch, numbers.stop):
                parts.flush()
                break


def _computed(source: ImageSet, extractor: FeatureExtractor, batch_size: int, numbers: range) -> Iterator[Row]:
    for images, labels in source.batches(batch_size, first=numbers.start, last=numbers.stop):
        yield _checked(extractor(images), num_images=len(images)), labels


class _Accumulators:
    """The sums that a pass makes; a class because they are synchronised one by one but filled together."""

    def __init__(self, probe: Features, *, device: torch.device) -> None:
        self.device = device
        self.extractors_device = probe.pooled.device
        self.pooled = _Moments(probe.pooled, device)
        self.spatial = None if probe.spatial is None else _Moments(probe.spatial, device)
        # A process whose share is empty still has to tell the others how wide and of what type its rows are.
        self.manifold = _rows(probe.pooled[:0], device)
        self.probabilities = None if probe.probabilities is None else _rows(probe.probabilities[:0], device)
        self.labels = _rows(torch.zeros(0, dtype=torch.int64), device)

    def update(self, features: Features, labels: Tensor | None, *, kept: Tensor) -> None:
        pooled = features.pooled.to(self.device)
        self.pooled.add(pooled)
        self.manifold.update(pooled[kept.to(self.device)])
        if self.spatial is not None and features.spatial is not None:
            self.spatial.add(features.spatial.to(self.device))
        if self.probabilities is not None and features.probabilities is not None:
            self.probabilities.update(features.probabilities.to(self.device))
        if labels is not None:
            self.labels.update(labels.to(self.device))

    def compute(self) -> Measured:
        labels = self.labels.compute()
        return Measured(
            pooled=self.pooled.gaussian(),
            spatial=None if self.spatial is None else self.spatial.gaussian(),
            manifold=self.manifold.compute(),
            probabilities=None if self.probabilities is None else self.probabilities.compute(),
            labels=labels if len(labels) else None,
            device=self.extractors_device,
        )


class _Moments:
    """A GaussianAccumulator that is given several batches at once: a merge costs as much as the products of hundreds of
    rows."""

    def __init__(self, probe: Tensor, device: torch.device) -> None:
        self._accumulator = GaussianAccumulator(probe.shape[1]).to(device)
        self._waiting: list[Tensor] = []

    def add(self, features: Tensor) -> None:
        self._waiting.append(features)
        if sum(map(len, self._waiting)) >= _ROWS_PER_MERGE:
            self._flush()

    def gaussian(self) -> Gaussian:
        self._flush()
        return self._accumulator.gaussian()

    def _flush(self) -> None:
        if self._waiting:
            self._accumulator.update(torch.cat(self._waiting))
        self._waiting = []


def _rows(first: Tensor, device: torch.device) -> RowAccumulator:
    accumulator = RowAccumulator().to(device)
    accumulator.update(first.to(device))
    return accumulator


def _probe(source: ImageSet, extractor: FeatureExtractor) -> Features:
    images, _ = next(source.batches(1, last=1))
    return _checked(extractor(images), num_images=1)


def _checked(features: Features, *, num_images: int) -> Features:
    for name in ("pooled", "spatial", "probabilities"):
        values: Tensor | None = getattr(features, name)
        if values is not None and (values.ndim != 2 or len(values) != num_images):
            raise ValueError(
                f"the extractor gave {name} features of shape {tuple(values.shape)} for {num_images} images; "
                f"expected one row for each"
            )
    return features


def spread_over(total: int, *, keep: int) -> Tensor:
    """Indices of `keep` of `total` images, ascending int64, always the same: one from each of `keep` equal stretches.

    Drawn within its stretch, since a fixed stride would meet some classes alone in a set that goes through them in
    turn. All of them, if there are no more than that.
    """
    if keep >= total:
        return torch.arange(total)
    ends = torch.arange(keep + 1) * total // max(keep, 1)
    drawn = torch.rand(keep, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return ends[:-1] + (drawn * ends.diff()).long()
