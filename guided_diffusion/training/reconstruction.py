"""Averages of any relative width, reconstructed after a training from stored power-function averages.

The weights that an average gives to the iterations are its profile (`weight_averages`). The profile of another width is
approximated by a linear combination of the stored ones, and the same combination of the stored weights is that average
(EDM2, 2312.02696 appendix C).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checkpoint import Checkpoint, open_checkpoint, read_weights
from ..run_directory import checkpoints, snapshots
from ..weight_averages import POWER, exponent


class StoredAverage(NamedTuple):
    checkpoint: Checkpoint
    name: str

    @property
    def width(self) -> float:
        """Its relative width."""
        return float(self.name.removeprefix(POWER))


@dataclass(frozen=True)
class Fit:
    """The combination of stored averages whose profile is nearest to that of a width."""

    width: float
    coefficients: NDArray[np.float64]
    """(stored,), which sum to 1."""
    error: float
    """Distance of the two profiles in L2, as a share of the norm of the one asked for."""


def stored_averages(checkpoint: Checkpoint) -> list[StoredAverage]:
    """Power-function averages of a checkpoint, and of the snapshots of its run up to it, oldest first."""
    before = [open_checkpoint(path, checkpoint.kind) for path in checkpoints(snapshots(checkpoint.path.parent))]
    return [
        StoredAverage(stored, name)
        for stored in [*(one for one in before if one.iteration < checkpoint.iteration), checkpoint]
        for name in stored.weight_names
        if name.startswith(POWER)
    ]


def fit(stored: Sequence[tuple[int, float]], *, iteration: int, width: float) -> Fit:
    """Least squares on the profiles (2312.02696 appendix C), under the constraint that the coefficients sum to 1.

    stored: iteration and relative width of each. The constraint keeps the weights from being scaled by a poor fit.
    """
    times = np.array([time for time, _ in stored]) / iteration
    gammas = np.array([exponent(one) for _, one in stored])
    gram = _inner(times[:, None], gammas[:, None], times, gammas)
    target, norm = _inner(times, gammas, 1.0, exponent(width)), _inner(1.0, exponent(width), 1.0, exponent(width))
    ones = np.ones((len(times), 1))
    system = np.block([[gram, ones], [ones.T, np.zeros((1, 1))]])  # the multiplier of the constraint comes last
    solution = np.linalg.lstsq(system, np.append(target, 1.0), rcond=None)[0][:-1].astype(np.float64)
    squared = (norm - 2 * solution @ target + solution @ gram @ solution) / norm
    return Fit(width, solution, float(np.sqrt(max(squared, 0.0))))


def _inner(
    t_1: NDArray[np.float64] | float, gamma_1: NDArray[np.float64] | float, t_2: NDArray[np.float64] | float,
    gamma_2: NDArray[np.float64] | float,
) -> NDArray[np.float64]:  # fmt: skip
    """Inner product of two profiles p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1) on [0, t]."""
    until = np.minimum(t_1, t_2)
    shape = (until / t_1) ** gamma_1 * (until / t_2) ** gamma_2 * until / (t_1 * t_2)
    return np.asarray((gamma_1 + 1) * (gamma_2 + 1) / (gamma_1 + gamma_2 + 1) * shape)


def combined(
    stored: Sequence[StoredAverage], fits: Sequence[Fit], *, advance: Callable[[], object]
) -> dict[str, Mapping[str, Tensor]]:
    """Weights of each fit by their name, in float32. One stored average is in memory at a time.

    A width that the last checkpoint holds is taken from there, unchanged. advance: called after each stored average.
    """
    last = stored[-1].checkpoint
    sums: dict[str, dict[str, Tensor]] = {f"{POWER}{one.width}": {} for one in fits}
    for number, average in enumerate(stored):
        tensors = read_weights(average.checkpoint, average.name)
        for name, one in zip(sums, fits, strict=True):
            for key, tensor in tensors.items():
                _add(sums[name], key, tensor, float(one.coefficients[number]))
        advance()
    return {name: read_weights(last, name) if name in last.weight_names else total for name, total in sums.items()}


def _add(total: dict[str, Tensor], key: str, tensor: Tensor, coefficient: float) -> None:
    """Add a multiple of a tensor; of one that is no float, such as a count, the last counts."""
    if not tensor.is_floating_point():
        total[key] = tensor
    elif key in total:
        total[key].add_(tensor.float(), alpha=coefficient)
    else:
        total[key] = torch.mul(tensor.float(), coefficient)
