"""Measurements of guidance while samples are made, nats and particles' weights, and their record for manifests."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.formats.storage import NO_LABEL


@dataclass(frozen=True)
class GuidanceStatistics:
    """Measured of B samples at the noise levels of their chain, the noisiest first."""

    timesteps: Tensor
    """(K,) float64, of the levels."""
    nats: Tensor
    """(K - 1, B) of each link but the last, by `NatsMeter`."""
    log_mean_weight: Tensor | None = None
    """(B,) nats, of particles."""
    ess: Tensor | None = None
    """(K, B) effective share of the particles."""


def joined(batches: Sequence[GuidanceStatistics | None]) -> dict[str, np.ndarray]:
    """Arrays of a shard from those of its batches: sums of each sample, and means over the samples at each level."""
    measured = [batch for batch in batches if batch is not None]
    if not measured:
        return {}
    by_level = torch.cat([batch.nats for batch in measured], dim=1)
    arrays = {"timesteps": measured[0].timesteps, "nats": by_level.sum(dim=0), "nats_by_level": by_level.mean(dim=1)}
    weights = [batch.log_mean_weight for batch in measured if batch.log_mean_weight is not None]
    shares = [batch.ess for batch in measured if batch.ess is not None]
    if weights and shares:
        arrays |= {"log_mean_weight": torch.cat(weights), "ess_by_level": torch.cat(shares, dim=1).mean(dim=1)}
    return {name: values.double().cpu().numpy() for name, values in arrays.items()}


def guidance_measured(
    of_shards: Iterable[Mapping[str, np.ndarray]],
) -> dict[str, Any] | None:
    """The record for a manifest, from the statistics of all shards; None unless all were measured.

    log_mean_weight is the logarithm of the mean weight, log Z(s), over all samples and over those of each label.
    """
    arrays = list(of_shards)
    if not all("nats" in measured for measured in arrays):
        return None
    sizes, y = [len(measured["nats"]) for measured in arrays], np.concatenate([one["labels"] for one in arrays])

    def by_level(name: str) -> list[list[float]]:
        means = np.average([measured[name] for measured in arrays], axis=0, weights=sizes)
        return [[float(t), float(mean)] for t, mean in zip(arrays[0]["timesteps"], means, strict=False)]

    nats = np.concatenate([measured["nats"] for measured in arrays])
    record: dict[str, Any] = {"nats": float(nats.mean()), "nats_by_timestep": by_level("nats_by_level")}
    if all("ess_by_level" in measured for measured in arrays):
        log_w = np.concatenate([measured["log_mean_weight"] for measured in arrays])
        known = [int(label) for label in np.unique(y) if label != NO_LABEL]
        record["log_mean_weight"] = log_mean(log_w)
        record["log_mean_weight_by_label"] = {str(label): log_mean(log_w[y == label]) for label in known}
        record["ess_by_timestep"] = by_level("ess_by_level")
    return record


def log_mean(log_w: np.ndarray) -> float:
    """log of the mean of exp(log_w), without overflow."""
    return float(np.logaddexp.reduce(log_w)) - math.log(len(log_w))
