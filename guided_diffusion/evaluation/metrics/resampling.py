"""Resampling of features: subsets and bootstrap sets, within classes if need be, and their Fréchet distances."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..measure import MeasuredSet
from ..statistics import Gaussian
from .frechet import frechet_distance

BLOCK_ROWS = 4096
"""Features in float64 at once, 64 MiB of Inception's."""


def class_groups(count: int, classes: Tensor | None) -> list[np.ndarray]:
    """The indices of each class, or of all if there are none."""
    if classes is None:
        return [np.arange(count)]
    if classes.shape != (count,):
        raise ValueError(f"expected a class for each of {count} features, got shape {tuple(classes.shape)}")
    numbers = classes.cpu().numpy()
    return [np.flatnonzero(numbers == number) for number in np.unique(numbers)]


def mixed(groups: Sequence[np.ndarray], draws: np.random.Generator) -> np.ndarray:
    """All indices in a random order, of which every beginning holds the groups in the proportions of the whole."""
    members = np.concatenate([draws.permutation(group) for group in groups])
    places = np.concatenate([(np.arange(len(group)) + draws.random(len(group))) / len(group) for group in groups])
    return members[np.argsort(places)]


def drawn_again(groups: Sequence[np.ndarray], draws: np.random.Generator) -> np.ndarray:
    """As many indices of each group as it has, with replacement."""
    return np.concatenate([group[draws.integers(len(group), size=len(group))] for group in groups])


def resampled_distance(features: Tensor, drawn: np.ndarray, real: Gaussian) -> float:
    """Fréchet distance of the rows with these indices, some perhaps repeated."""
    times = torch.from_numpy(np.bincount(drawn, minlength=len(features)))
    mean, cov = weighted_gaussian(features, times.to(features.device))
    return frechet_distance(mean, cov, real.mean, real.cov)


def weighted_gaussian(features: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance (divisor: number of rows - 1) of features (N, D) of which row i appears times[i] times.

    A row that appears twice costs as much as one that appears once, and one that does not appear costs nothing. Sums
    are those of deviations from the mean of all rows, near enough to the mean in question that no digits are lost.
    """
    count, dimensions = int(times.sum()), features.shape[1]
    centre = features.mean(dim=0, dtype=torch.float64)
    total = torch.zeros_like(centre)
    scatter = centre.new_zeros(dimensions, dimensions)
    for rows in times.nonzero()[:, 0].split(BLOCK_ROWS):
        deviations = features[rows].double() - centre
        weighted = deviations * times[rows, None]
        total += weighted.sum(dim=0)
        scatter.addmm_(weighted.T, deviations)
    scatter -= torch.outer(total, total) / count
    return centre + total / count, scatter / (count - 1)


def balanced_classes(generated: MeasuredSet) -> Tensor | None:
    """The labels, if each class has as many samples as any other: then their numbers are not random."""
    labels = generated.labels
    if labels is None or (labels < 0).any():
        return None
    counts = labels.unique(return_counts=True)[1]
    return labels if int(counts.max() - counts.min()) <= 1 else None
