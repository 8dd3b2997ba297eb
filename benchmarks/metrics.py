"""Speed and memory of our metrics, torch-fidelity's, and a Fréchet distance by scipy's matrix square root.

OMP_NUM_THREADS=2 python benchmarks/metrics.py [--samples 10000] [--subsets 10] [--repeats 3]

All on the same random features, by turns in one process and with the same number of threads, which the environment
decides; the fastest round of each counts. Memory is what a fresh process needs at most beyond the features themselves,
as Linux tells it.
"""

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from guided_diffusion.config import run_command
from guided_diffusion.evaluation.metrics.frechet import frechet_distance
from guided_diffusion.evaluation.metrics.kernel import kernel_distance
from guided_diffusion.evaluation.metrics.neighbours import density_coverage, precision_recall
from guided_diffusion.evaluation.statistics import Gaussian, gaussian, moments


@dataclass(frozen=True, kw_only=True)
class MetricsBenchmark:
    """Prints a row for each way of computing each metric; `speed` is how many times faster than that way ours is."""

    samples: int = 10_000
    """Features on each side; more than `dimensions`, or covariances are singular."""
    dimensions: int = 2048
    """Width of the features; 2048 is Inception's."""
    subsets: int = 10
    """Pairs of subsets of the kernel distance, 1000 features each. The published number of them is 100."""
    repeats: int = 3
    """Rounds."""


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
    """Prints the table."""
    try:
        import torch_fidelity  # noqa: F401
    except ImportError as error:
        raise ImportError("this compares with torch-fidelity; pip install guided-diffusion[inception]") from error
    print(f"{config.samples} features of {config.dimensions} on each side, {torch.get_num_threads()} threads")
    print(f"{'metric':>18} {'by':>20} {'seconds':>8} {'speed':>6} {'MiB':>6} {'value':>14}")
    features = _features(config)
    for metric, ways in WAYS.items():
        sides = _sides(metric, features)
        rounds = [{by: _run(way, sides, config) for by, way in ways.items()} for _ in range(config.repeats)]
        best = {by: min(one[by] for one in rounds) for by in ways}
        for by, (seconds, value) in best.items():
            speed = seconds / best["ours"][0]
            mib = _added_mib(config, metric, by)
            print(f"{metric:>18} {by:>20} {seconds:8.2f} {speed:6.2f} {mib:6.0f} {value:14.8g}", flush=True)


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


def _run(way: Callable[..., float], sides: tuple[object, object], config: MetricsBenchmark) -> tuple[float, float]:
    """Seconds and value."""
    started = time.perf_counter()
    value = way(*sides, config)
    return time.perf_counter() - started, value


def _added_mib(config: MetricsBenchmark, metric: str, by: str) -> float:
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(_measured_mib, config, metric, by).result()


def _measured_mib(config: MetricsBenchmark, metric: str, by: str) -> float:
    sides = _sides(metric, _features(config))
    Path("/proc/self/clear_refs").write_text("5")  # from here on the peak counts anew
    before = _peak_mib()
    WAYS[metric][by](*sides, config)
    return _peak_mib() - before


def _peak_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    run_command(MetricsBenchmark, main)
