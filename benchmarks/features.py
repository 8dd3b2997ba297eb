"""Speed and accuracy of our Inception extractor and torch-fidelity's, by turns in one process.

python benchmarks/features.py [--sizes "[64, 256]"] [--weights FILE]
"""

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from guided_diffusion.config import run_command
from guided_diffusion.evaluation.extractors.features import PublishedExtractor
from guided_diffusion.evaluation.extractors.inception import (
    InceptionNetwork,
    load_inception,
    resized_like_tensorflow,
)


@dataclass(frozen=True, kw_only=True)
class FeatureBenchmark:
    """Extracts features of the same random images with both, on the CPU."""

    weights: Path | None = None
    """Inception's, torch-fidelity's file; null: random ones, which are as fast."""
    sizes: tuple[int, ...] = (64, 256)
    """Sides of the images, in pixels."""
    batch_size: int = 32
    """Images at a time, of both."""
    threads: int = 2
    """Of torch."""
    repeats: int = 5
    """Rounds; the fastest round of each counts."""


def compare(config: FeatureBenchmark) -> None:
    """Prints a row for each size: images a second, their ratio, and how far features are from torch-fidelity's and both
    from float64 arithmetic, in shares of the largest feature.

    Raises:
        ImportError: no torch-fidelity.
    """
    torch.set_num_threads(config.threads)
    with TemporaryDirectory() as directory:
        path = config.weights or _random_weights(Path(directory) / "weights.pth")
        ours, theirs = load_inception(path), _torch_fidelity(path)
        exact = InceptionNetwork().eval()
        exact.load_state_dict(torch.load(path, weights_only=True))
    print(f"{'size':>5} {'ours':>9} {'theirs':>9} {'speed':>6} {'ours from':>10} {'ours from':>10} {'theirs from':>11}")
    print(f"{'px':>5} {'images/s':>9} {'images/s':>9} {'ratio':>6} {'theirs':>10} {'float64':>10} {'float64':>11}")
    for size in config.sizes:
        images = torch.randint(0, 256, (config.batch_size, 3, size, size), dtype=torch.uint8)
        seconds = [[_seconds(ours, images), _seconds(theirs, images)] for _ in range(config.repeats)]
        fast, slow = (config.batch_size / min(way) for way in zip(*seconds, strict=True))
        one, other, truth = ours(images[:4]).pooled, theirs(images[:4])[0], _float64(exact, images[:4])
        print(
            f"{size:5d} {fast:9.2f} {slow:9.2f} {fast / slow:6.2f} {_deviation(one, other):10.1e} "
            f"{_deviation(one, truth):10.1e} {_deviation(other, truth):11.1e}"
        )


def _torch_fidelity(path: Path) -> torch.nn.Module:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    return FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
    )


def _random_weights(path: Path) -> Path:
    """Weights under which activations neither die nor grow, and normalisations have something to fold."""
    network = InceptionNetwork()
    rng = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=rng)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=rng)
        elif name.endswith(("bias", "running_mean")):
            tensor.normal_(0, 0.1, generator=rng)
    torch.save(network.state_dict(), path)
    return path


@torch.inference_mode()
def _seconds(extractor: PublishedExtractor | torch.nn.Module, images: Tensor) -> float:
    started = time.perf_counter()
    extractor(images)
    return time.perf_counter() - started


@torch.inference_mode()
def _float64(network: InceptionNetwork, images: Tensor) -> Tensor:
    layers = torch.nn.Sequential(*list(network.children())[:-1]).double()
    return layers((resized_like_tensorflow(images.float(), size=299).double() - 128) / 128).flatten(1)


def _deviation(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).abs().max() / expected.abs().max())


if __name__ == "__main__":
    run_command(FeatureBenchmark, compare)
