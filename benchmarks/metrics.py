"""Speed and memory of our metrics, torch-fidelity's, and a Fréchet distance by scipy's matrix square root.

OMP_NUM_THREADS=2 python benchmarks/metrics.py [--samples 5000] [--subsets 10] [--rounds 3]

All on the same random features, with the number of threads that the environment decides. Memory is what a fresh process
needs at most beyond the features themselves, as Linux tells it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from comparison import grown
from memory import added_mib, in_fresh_process
from rounds import NOT_MEASURED, Table, shown, timed
from scipy.linalg import sqrtm
from torch import Tensor

from guided_diffusion.config import run_command
from guided_diffusion.evaluation.metrics.frechet import frechet_distance
from guided_diffusion.evaluation.metrics.kernel import kernel_distance
from guided_diffusion.evaluation.metrics.neighbours import density_coverage, precision_recall
from guided_diffusion.evaluation.statistics import Gaussian, gaussian, moments


@dataclass(frozen=True, kw_only=True)
class MetricsBenchmark:
    """Prints a row for each way of computing each metric, and the growth of ours."""

    samples: int = 5000
    """Features on each side; more than `dimensions`, or covariances are singular."""
    dimensions: int = 2048
    """Width of the features; 2048 is Inception's."""
    subsets: int = 10
    """Pairs of subsets of the kernel distance, 1000 features each. The published number of them is 100."""
    rounds: int = 3
    """Rounds."""
    fractions: tuple[float, ...] = (0.25, 0.5, 1.0)
    """Shares of the samples, and of the dimensions, for the growth with them."""


def ours_frechet(real: Gaussian, generated: Gaussian, config: MetricsBenchmark) -> float:
    return frechet_distance(generated.mean, generated.cov, real.mean, real.cov)


def fidelity_frechet(real: Gaussian, generated: Gaussian, config: MetricsBenchmark) -> float:
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    sides = ({"mu": side.mean.numpy(), "sigma": side.cov.numpy()} for side in (generated, real))
    return fid_statistics_to_metric(*sides, verbose=False)[KEY_METRIC_FID]


def scipy_frechet(real: Gaussian, generated: Gaussian, config: MetricsBenchmark) -> float:
    root = sqrtm(generated.cov.numpy() @ real.cov.numpy())
    separation = (generated.mean - real.mean).square().sum()
    return float(separation + generated.cov.trace() + real.cov.trace()) - 2 * float(np.trace(root).real)


def ours_precision(real: Tensor, generated: Tensor, config: MetricsBenchmark) -> float:
    return precision_recall(real=real, generated=generated)[0]


def fidelity_precision(real: Tensor, generated: Tensor, config: MetricsBenchmark) -> float:
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    return calculate_precision_recall_full(generated, real)[0]


def fidelity_precision_part(real: Tensor, generated: Tensor, config: MetricsBenchmark) -> float:
    from torch_fidelity.metric_prc import calculate_precision_recall_part

    return calculate_precision_recall_part(generated, real)[0]


def ours_density(real: Tensor, generated: Tensor, config: MetricsBenchmark) -> float:
    return density_coverage(real=real, generated=generated)[0]


def ours_kernel(real: Tensor, generated: Tensor, config: MetricsBenchmark) -> float:
    return kernel_distance(real=real, generated=generated, subsets=config.subsets)[0]


def fidelity_kernel(real: Tensor, generated: Tensor, config: MetricsBenchmark) -> float:
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    return kid_features_to_metric(generated, real, kid_subsets=config.subsets, verbose=False)[KEY_METRIC_KID_MEAN]


def fidelity_kernel_float64(real: Tensor, generated: Tensor, config: MetricsBenchmark) -> float:
    return fidelity_kernel(real.double(), generated.double(), config)


WAYS: dict[str, dict[str, Callable[..., float]]] = {
    "Fréchet distance": {
        "ours": ours_frechet,
        "torch-fidelity": fidelity_frechet,
        "scipy sqrtm": scipy_frechet,
    },
    "precision, recall": {
        "ours": ours_precision,
        "torch-fidelity": fidelity_precision,
        "torch-fidelity, part": fidelity_precision_part,
    },
    "density, coverage": {"ours": ours_density},
    "kernel distance": {
        "ours": ours_kernel,
        "torch-fidelity": fidelity_kernel,
        "torch-fidelity, f64": fidelity_kernel_float64,
    },
}
"""By metric and by whom; the first of each is ours. What has two numbers returns the first."""


def main(config: MetricsBenchmark) -> None:
    """Prints the tables."""
    print(Table(
        f"Metrics of {config.samples:,} features a side", ("metric", "by", "seconds", "time / ours", "MiB", "value"),
        list(rows(config)), f"{config.dimensions} dimensions, {torch.get_num_threads()} threads.",
    ))  # fmt: skip
    features = _features(config)
    gaussians = {size: _sides("Fréchet distance", tuple(side[:, :size] for side in features))
                 for size in (int(share * config.dimensions) for share in config.fractions)}  # fmt: skip
    by_dimensions = {size: partial(ours_frechet, *sides, config) for size, sides in gaussians.items()}
    by_samples = {count: partial(ours_precision, *(side[:count] for side in features), config)
                  for count in (int(share * config.samples) for share in config.fractions)}  # fmt: skip
    series = {"Fréchet distance, dimensions": by_dimensions, "precision, recall: samples a side": by_samples}
    print(grown("Growth of the metrics", series, rounds=config.rounds))


def rows(config: MetricsBenchmark) -> Iterator[list[str]]:
    """Cells of each way of each metric."""
    features = _features(config)
    for metric, ways in WAYS.items():
        sides = _sides(metric, features)
        timings = timed({by: partial(way, *sides, config) for by, way in ways.items()}, rounds=config.rounds)
        for by in ways:
            if by in timings.missing:
                yield [metric, by, f"{NOT_MEASURED} ({timings.missing[by]})", "", "", ""]
            else:
                mib, value = in_fresh_process(_measured, config, metric, by)
                ratio = shown(timings.ratio(by, "ours"))
                yield [metric, by, shown(timings.spread(by)), ratio, f"{mib:.0f}", f"{value:.8g}"]


def _features(config: MetricsBenchmark) -> tuple[Tensor, Tensor]:
    """Real and generated: correlated, with variances that fall over three orders of magnitude, as a network's do."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(config.dimensions, config.dimensions, generator=generator)
    mixing = torch.linalg.qr(mixing).Q * torch.logspace(0, -1.5, config.dimensions)
    real, generated = torch.randn(2, config.samples, config.dimensions, generator=generator) @ mixing.T
    return real, 1.02 * generated + 0.002


def _sides(metric: str, features: tuple[Tensor, Tensor]) -> tuple[Gaussian, Gaussian] | tuple[Tensor, Tensor]:
    if metric != "Fréchet distance":
        return features
    real, generated = features
    return gaussian(moments(real)), gaussian(moments(generated))


def _measured(config: MetricsBenchmark, metric: str, by: str) -> tuple[float, float]:
    """MiB and value."""
    sides, values = _sides(metric, _features(config)), list[float]()
    mib = added_mib(lambda: values.append(WAYS[metric][by](*sides, config)))
    return mib, values[0]


if __name__ == "__main__":
    run_command(MetricsBenchmark, main)
