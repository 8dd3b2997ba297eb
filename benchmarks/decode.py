"""Speed and fidelity of `--data.decode fast` beside exact, on real photographs: decoding plus the centre crop.

python benchmarks/decode.py --images DIR [--sizes "[32, 64, 128]"]
"""

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from guided_diffusion.config import run_command
from guided_diffusion.data.image_set import DataConfig, ImageDataset, open_dataset


@dataclass(frozen=True, kw_only=True)
class DecodeBenchmark:
    """Decodes the same images exactly and fast, by turns, in this process."""

    images: Path
    """Data of any kind that training takes."""
    sizes: tuple[int, ...] = (32, 64, 128)
    """Sides of the crops, in pixels."""
    repeats: int = 5
    """Rounds over all images; the fastest round of each way counts."""


def compare(config: DecodeBenchmark) -> None:
    """Prints a row for each size."""
    exact_config = DataConfig(path=config.images, mode="RGB")
    print(f"{'size':>5} {'exact':>10} {'fast':>10} {'speed':>6} {'scaled':>7} {'PSNR':>8} {'worst':>8}")
    print(f"{'px':>5} {'ms/image':>10} {'ms/image':>10} {'ratio':>6} {'%':>7} {'dB':>8} {'dB':>8}")
    for size in config.sizes:
        exact = open_dataset(exact_config, image_size=size)
        fast = open_dataset(replace(exact_config, decode="fast"), image_size=size)
        seconds = [[_seconds(dataset) for dataset in (exact, fast)] for _ in range(config.repeats)]
        exact_ms, fast_ms = (min(way) / len(exact) * 1000 for way in zip(*seconds, strict=True))
        psnr, worst, scaled = _fidelity(exact, fast)
        print(
            f"{size:5d} {exact_ms:10.2f} {fast_ms:10.2f} {exact_ms / fast_ms:6.2f} {100 * scaled:7.0f} "
            f"{psnr:8.1f} {worst:8.1f}"
        )


def _seconds(dataset: ImageDataset) -> float:
    started = time.perf_counter()
    for index in range(len(dataset)):
        dataset[index]
    return time.perf_counter() - started


def _fidelity(exact: ImageDataset, fast: ImageDataset) -> tuple[float, float, float]:
    """PSNR of the mean squared error over all images that differ and of the worst image, in dB, and the share of those
    that differ."""
    errors = torch.tensor([float((exact[i][0] - fast[i][0]).square().mean()) for i in range(len(exact))])
    differing = errors[errors > 0]
    if not len(differing):
        return math.inf, math.inf, 0.0
    peak = 2.0**2  # of the range [-1, 1]
    psnr = [10 * math.log10(peak / float(error)) for error in (differing.mean(), differing.max())]
    return psnr[0], psnr[1], len(differing) / len(errors)


if __name__ == "__main__":
    run_command(DecodeBenchmark, compare)
