"""Seconds that the start of a training spends on its images: at first, and with the index that the first start leaves.

python benchmarks/data_start.py --images 200000

The images are small JPEGs under names of ImageNet's form, hard links to a few files, in a warm page cache.
"""

import os
import pickle
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from guided_diffusion.config import run_command
from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.fingerprint import fingerprint
from guided_diffusion.data.image_set import open_training_set

DISTINCT = 100


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """Measure how long a data set takes to open, the first time and later."""

    images: int = 200_000
    """Number of images."""
    classes: int = 1_000
    """Number of their folders."""
    rounds: int = 5
    """Later starts; the median is shown."""


def main(config: StartConfig) -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.environ["XDG_CACHE_HOME"] = str(Path(directory) / "cache")
        data = write_links(Path(directory) / "data", config)
        print(f"{config.images:,} images in {config.classes:,} folders; load {os.getloadavg()[0]:.1f}")
        show("first start", [start(data)])
        show("later starts", [start(data) for _ in range(config.rounds)])
        held = len(pickle.dumps(open_training_set(DataConfig(path=data), image_size=32)))
        print(f"held by a process: {held / config.images:.1f} bytes an image")


def write_links(root: Path, config: StartConfig) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (DISTINCT, 32, 32, 3), dtype=np.uint8)
    sources = [root.parent / f"{number}.JPEG" for number in range(DISTINCT)]
    for source, image in zip(sources, pixels, strict=True):
        Image.fromarray(image).save(source)
    for number in range(config.images):
        folder = root / f"n{1440764 + number % config.classes:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{folder.name}_{number // config.classes}.JPEG").hardlink_to(sources[number % DISTINCT])
    time.sleep(2)  # files younger than a tick of the coarsest clock are read again
    return root


def start(path: Path) -> tuple[float, float]:
    """Seconds of opening the set, and of its fingerprint."""
    begun = time.perf_counter()
    images = open_training_set(DataConfig(path=path), image_size=32)
    opened = time.perf_counter()
    fingerprint(images)
    return opened - begun, time.perf_counter() - opened


def show(name: str, measured: list[tuple[float, float]]) -> None:
    opening, hashing = (statistics.median(values) for values in zip(*measured, strict=True))
    print(f"{name}: {opening + hashing:.2f} s ({opening:.2f} s opening, {hashing:.2f} s fingerprint)")


if __name__ == "__main__":
    run_command(StartConfig, main)
