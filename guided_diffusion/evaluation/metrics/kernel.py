"""Kernel distance, on Inception's features the KID (Bińkowski et al. 2018)."""

import numpy as np
import torch
from torch import Tensor

from ..config import EvaluationConfig
from ..measure import MeasuredSet
from .metric import Metric, Number, Result, check_comparable, deviation


def kernel_distance(
    *, real: Tensor, generated: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> tuple[float, float]:
    """E k(x, x') + E k(y, y') - 2 E k(x, y) with k(x, y) = (x.y / D + 1)^3, eq. 4.

    The unbiased estimate of the squared maximum mean discrepancy, which may be negative: its mean over pairs of random
    subsets of the two sets, and standard deviation over them.

    Features (N, D) and (M, D), computed in float64 on the CPU. Every subset is drawn without replacement, the generated
    one of a pair first, from one stream of random numbers: those that torch-fidelity draws from the same seed.

    Raises:
        ValueError: a set smaller than a subset.
    """
    check_comparable(real=real, generated=generated)
    if subsets < 1 or subset_size < 2:
        raise ValueError(f"expected at least 1 pair of subsets of at least 2, got {subsets} of {subset_size}")
    for name, features in (("real", real), ("generated", generated)):
        if len(features) < subset_size:
            raise ValueError(
                f"{name} set has {len(features)} features, too few for subsets of {subset_size}; "
                f"give more images or lower subset_size"
            )
    draws = np.random.RandomState(seed)
    found: list[float] = []
    for _ in range(subsets):
        x, y = (_random_subset(features, subset_size, draws) for features in (generated, real))
        found.append(_squared_discrepancy(x, y))
    return float(np.mean(found)), float(np.std(found))


def _random_subset(features: Tensor, size: int, draws: np.random.RandomState) -> np.ndarray:
    drawn = torch.from_numpy(draws.choice(len(features), size, replace=False))
    return features[drawn.to(features.device)].double().cpu().numpy()


def _squared_discrepancy(x: np.ndarray, y: np.ndarray) -> float:
    """E k(x, x') + E k(y, y') - 2 E k(x, y) over pairs of different rows, for two matrices of the same shape."""
    pairs = len(x) * (len(x) - 1)
    within = [(kernel.sum() - kernel.trace()) / pairs for kernel in (_cubic_kernel(x, x), _cubic_kernel(y, y))]
    return float(within[0] + within[1] - 2 * _cubic_kernel(x, y).mean())


def _cubic_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # NumPy's: it computes half of x @ x.T and mirrors it. Its general power would take as long as the product.
    base = x @ y.T / x.shape[1] + 1
    return base * base * base


def _compute(generated: MeasuredSet, real: MeasuredSet, config: EvaluationConfig) -> Result:
    smallest = min(len(real.manifold), len(generated.manifold))
    if smallest < config.kid_subset_size:
        return Result(
            missing=f"{config.kid_subset_size} images a side are its subsets (--protocol.kid_subset_size), there are "
            f"{smallest}"
        )
    mean, std = kernel_distance(
        real=real.manifold, generated=generated.manifold, subsets=config.kid_subsets, subset_size=config.kid_subset_size
    )
    return Result(values={"kernel_distance": mean, "kernel_distance_std": std})


KERNEL_DISTANCE = Metric(
    numbers=(
        Number(key="kernel_distance", name="KD", inception_name="KID", lower_is_better=True),
        Number(key="kernel_distance_std", name="KD std", inception_name="KID std", is_deviation=True),
    ),
    looks_at="features",
    compute=_compute,
    uncertainty={"kernel_distance": lambda report: deviation(report, "kernel_distance_std", over="subsets")},
    protocol={"settings.kid_subsets": "number of KID's subsets", "settings.kid_subset_size": "size of KID's subsets"},
)
