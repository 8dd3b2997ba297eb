"""One pass of a set of images through an extractor, shared by any number of processes."""

from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from guided_diffusion.data.sources import ImageSource, batches, num_batches
from guided_diffusion.evaluation.features import FeatureExtractor, Features
from guided_diffusion.evaluation.statistics import Gaussian, GaussianAccumulator, RowAccumulator


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is known of a set of N images after its pass.

    pooled, spatial: statistics of those features. manifold: (M, D), the pooled features kept for what needs more than
    statistics. probabilities: (N, C). labels: (N,) int64, -1 where a sample has none, or None if none has. Rows are in
    the set's order. spatial and probabilities are None where the extractor has none.
    """

    pooled: Gaussian
    spatial: Gaussian | None
    manifold: Tensor
    probabilities: Tensor | None
    labels: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Share:
    """This process's part of the work: number `rank` of `world_size`, on `device`; it shows a progress bar or not."""

    device: torch.device
    rank: int = 0
    world_size: int = 1
    progress: bool = False


def measure(
    source: ImageSource, extractor: FeatureExtractor, *, batch_size: int, keep: int, share: Share, name: str
) -> Measured:
    """Features of all images of `source`, each process extracting a run of whole batches.

    The batches are those that one process would make, and the rows come back in the source's order, so that the outcome
    does not depend on the number of processes but by float64 rounding of the statistics. Every process gets the whole
    outcome. keep: of how many images to keep the pooled features, evenly spaced over the set. name: what
    the bar says.

    Raises ValueError if the extractor returns features of other shapes than it should, or not finite.
    """
    total = num_batches(source, batch_size=batch_size)
    first, last = share.rank * total // share.world_size, (share.rank + 1) * total // share.world_size
    gathered = _Accumulators(_probe(source, extractor), device=share.device)
    position = first * batch_size
    bar = tqdm(
        total=min(last * batch_size, source.num_images) - position, desc=name, unit="img", disable=not share.progress
    )
    with bar:
        for images, labels in batches(source, batch_size=batch_size, first=first, last=last):
            features = _checked(extractor(images), num_images=len(images))
            kept = _evenly_spaced(position, len(images), keep=keep, total=source.num_images)
            gathered.update(features, labels, kept=kept)
            position += len(images)
            bar.update(len(images))
    return gathered.compute()


class _Accumulators:
    """The five sums that a pass makes; a class because they are synchronised one by one but filled together."""

    def __init__(self, probe: Features, *, device: torch.device) -> None:
        self.device = device
        self.pooled = GaussianAccumulator(probe.pooled.shape[1]).to(device)
        self.spatial = None if probe.spatial is None else GaussianAccumulator(probe.spatial.shape[1]).to(device)
        self.manifold, self.labels = RowAccumulator().to(device), RowAccumulator().to(device)
        self.probabilities = None if probe.probabilities is None else RowAccumulator().to(device)
        # A process whose share is empty still has to tell the others how wide and of what type its rows are.
        self.manifold.update(probe.pooled[:0].to(device))
        self.labels.update(torch.zeros(0, dtype=torch.int64, device=device))
        if self.probabilities is not None and probe.probabilities is not None:
            self.probabilities.update(probe.probabilities[:0].to(device))

    def update(self, features: Features, labels: Tensor | None, *, kept: Tensor) -> None:
        pooled = features.pooled.to(self.device)
        self.pooled.update(pooled)
        self.manifold.update(pooled[kept.to(self.device)])
        if self.spatial is not None and features.spatial is not None:
            self.spatial.update(features.spatial.to(self.device))
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
        )


def _probe(source: ImageSource, extractor: FeatureExtractor) -> Features:
    images, _ = next(batches(source, batch_size=1, last=1))
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


def _evenly_spaced(position: int, length: int, *, keep: int, total: int) -> Tensor:
    """Which of the images position..position+length-1 are among `keep` evenly spaced ones of `total`: bool."""
    index = torch.arange(position, position + length)
    if keep >= total:
        return torch.ones(length, dtype=torch.bool)
    return index * keep // total != (index - 1) * keep // total
