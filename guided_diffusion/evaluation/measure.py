"""One pass of a set of images through an extractor, shared by any number of processes."""

import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor
from tqdm import tqdm

from ..data.image_set import ImageSet
from ..diffusion.images import is_constant
from ..distributed import Process
from .extractors.features import FeatureExtractor, Features
from .feature_cache import FeatureCache, Row
from .statistics import Gaussian, GaussianAccumulator, RowAccumulator, check_finite

_ROWS_PER_MERGE = 512
"""Merging statistics costs as much as the products of hundreds of rows, so batches are collected first."""
_BATCHES_AHEAD = 2
"""Batches that are read while the extractor computes."""
CONSTANT = -1
"""Fingerprint of every image of one colour."""


@dataclass(frozen=True, kw_only=True)
class MeasuredSet:
    """Statistics and features of a set of N images; rows are in the set's order. None: there are none.

    pooled, spatial: statistics of those features. features: (M, D) pooled features that were kept, of M <= N images
    spread over the set. manifold_size: the number of these that neighbours are looked for among. probabilities: (N, C)
    of the classes `class_names`. labels: (N,) int64, indices of `label_names`, -1 where an image has none. device: of
    the extractor.
    """

    pooled: Gaussian
    spatial: Gaussian | None = None
    features: Tensor | None = None
    manifold_size: int = 0
    probabilities: Tensor | None = None
    class_names: tuple[str, ...] | None = None
    labels: Tensor | None = None
    label_names: tuple[str, ...] | None = None
    fingerprints: Tensor | None = None
    device: torch.device = torch.device("cpu")

    @cached_property
    def manifold(self) -> Tensor:
        """Kept features (manifold_size, D), of images spread over the set."""
        assert self.features is not None
        if len(self.features) == self.manifold_size:
            return self.features
        kept = spread_over(len(self.features), keep=self.manifold_size)
        return self.features[kept.to(self.features.device)]

    @property
    def order(self) -> Literal["as stored", "shuffled"]:
        """Order of the images in splits. Sets that list their images class by class, as folders do, are shuffled: a
        split of few classes would have a small Inception Score."""
        if self.labels is None or len(self.labels.unique()) == 1:
            return "as stored"
        return "as stored" if (self.labels.diff() < 0).any() else "shuffled"


def measure(
    source: ImageSet,
    extractor: FeatureExtractor,
    *,
    batch_size: int,
    manifold_size: int,
    keep_all: bool = False,
    process: Process,
    name: str,
    cache: FeatureCache | None = None,
) -> MeasuredSet:
    """Statistics and features of all images of `source`, each process extracting a run of whole batches.

    Batches and the order of rows are those of one process, so that the number of processes only changes the rounding of
    the statistics. manifold_size: 0 keeps statistics alone. keep_all: keep the features of all images, not only the
    manifold's. name: of the progress bar. The host does not wait for the extractor's device between batches, and reads
    the next ones meanwhile.

    Raises:
        ValueError: features of another shape than expected, or not finite.
    """
    count, total = len(source), source.num_batches(batch_size)
    first, last = process.rank * total // process.world_size, (process.rank + 1) * total // process.world_size
    images, _ = next(source.batches(1, last=1))
    probe = _checked(extractor(images), 1)
    check_finite(probe.pooled)
    sums = _Accumulators(probe, device=process.device, keeps_rows=manifold_size > 0)
    is_kept = torch.zeros(count, dtype=torch.bool)
    is_kept[spread_over(count, keep=count if keep_all else manifold_size)] = True
    position = first * batch_size
    bar = tqdm(total=min(last * batch_size, count) - position, desc=name, unit="img", disable=not process.is_main)
    with bar:
        for row in _measured_batches(source, extractor, batch_size, range(first, last), cache):
            length = len(row.features.pooled)
            sums.add(row, kept=is_kept[position : position + length])
            position += length
            bar.update(length)
    found = sums.measured_set(manifold_size=min(manifold_size, count))
    return replace(found, class_names=extractor.class_names, label_names=source.class_names or None)


def _measured_batches(
    source: ImageSet, extractor: FeatureExtractor, batch_size: int, numbers: range, cache: FeatureCache | None
) -> Iterator[Row]:
    """The batches of these numbers, from the cache where it has them."""
    batch = numbers.start
    while batch < numbers.stop:
        if cache and (stored := cache.stored(batch, numbers.stop)):
            yield from stored
            batch += len(stored)
            continue
        for row in _computed(source, extractor, batch_size, range(batch, numbers.stop)):
            if cache:
                cache.add(batch, row)
            yield row
            batch += 1
            if cache and cache.stored(batch, numbers.stop):
                cache.flush()
                break
    if cache:
        cache.forget()


def _computed(source: ImageSet, extractor: FeatureExtractor, batch_size: int, numbers: range) -> Iterator[Row]:
    for images, *others in _read_ahead(source, batch_size, numbers):
        yield Row(_checked(extractor(images), len(images)), *others)


class _Read(NamedTuple):
    images: Tensor
    labels: Tensor | None
    fingerprints: Tensor


def _read_ahead(source: ImageSet, batch_size: int, numbers: range) -> Iterator[_Read]:
    """The batches of these numbers, read by a thread of their own."""
    batches = source.batches(batch_size, first=numbers.start, last=numbers.stop)
    batches = (_Read(images, labels, fingerprints(images)) for images, labels in batches)
    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, batches, None) for _ in range(_BATCHES_AHEAD))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, batches, None))
            yield batch


def fingerprints(images: Tensor) -> Tensor:
    """A number for each image (B, C, H, W) uint8, equal for equal pixels: (B,) int64; CONSTANT for one of one colour.

    Of 32 bits: among 50,000 different images one pair is equal with a probability of 0.25. 1.8 GB/s.
    """
    numbers = torch.tensor([zlib.crc32(image.numpy().data) for image in images.cpu().contiguous()])
    return torch.where(is_constant(images).cpu(), CONSTANT, numbers)


class _Accumulators:
    """Sums and rows of one pass; a class because they are filled together but synchronised one by one."""

    def __init__(self, probe: Features, *, device: torch.device, keeps_rows: bool) -> None:
        self._device = device
        self._extractor_device = probe.pooled.device
        kinds = {"pooled": probe.pooled, "spatial": probe.spatial}
        self._moments = {
            kind: GaussianAccumulator(rows.shape[1]).to(device) for kind, rows in kinds.items() if rows is not None
        }
        self._waiting: dict[str, list[Tensor]] = {kind: [] for kind in self._moments}
        probabilities = probe.probabilities if keeps_rows else None  # 4 GB for a million images
        numbers = torch.zeros(1).long()
        kinds = {"features": probe.pooled, "probabilities": probabilities, "labels": numbers, "fingerprints": numbers}
        self._rows = {kind: RowAccumulator().to(device) for kind, rows in kinds.items() if rows is not None}
        for kind, accumulator in self._rows.items():
            # A process without batches of its own still has to know how wide the rows are, and of what type.
            accumulator.update(cast(Tensor, kinds[kind])[:0].to(device))

    def add(self, row: Row, *, kept: Tensor) -> None:
        """Add a batch; kept: (N,) bool on the CPU, the rows of the pooled features to keep."""
        features = row.features
        for kind, waiting in self._waiting.items():
            waiting.append(getattr(features, kind))
        pooled = features.pooled
        if not kept.all():  # by numbers: where a mask lies on a GPU, the host waits to know the length
            pooled = pooled[kept.nonzero()[:, 0].to(pooled.device, non_blocking=True)]
        kinds = {"features": pooled, "labels": row.labels}
        kinds |= {"probabilities": features.probabilities, "fingerprints": row.fingerprints}
        for kind, accumulator in self._rows.items():
            if (rows := kinds[kind]) is not None:
                accumulator.update(rows.to(self._device))
        if sum(map(len, self._waiting["pooled"])) >= _ROWS_PER_MERGE:
            self._merge()

    def measured_set(self, *, manifold_size: int) -> MeasuredSet:
        """Statistics and rows of all processes; every one of them must call."""
        self._merge()
        statistics = {kind: accumulator.gaussian() for kind, accumulator in self._moments.items()}
        rows = {kind: accumulator.compute() for kind, accumulator in self._rows.items()}
        return MeasuredSet(
            pooled=statistics["pooled"],
            spatial=statistics.get("spatial"),
            features=rows["features"],
            manifold_size=manifold_size,
            probabilities=rows.get("probabilities"),
            labels=rows["labels"] if len(rows["labels"]) else None,
            fingerprints=rows["fingerprints"],
            device=self._extractor_device,
        )

    def _merge(self) -> None:
        for kind, waiting in self._waiting.items():
            if waiting:
                self._moments[kind].update(torch.cat([rows.to(self._device) for rows in waiting]))
            self._waiting[kind] = []


def _checked(features: Features, num_images: int) -> Features:
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
