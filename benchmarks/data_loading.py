"""Images a second that a training gets from a data set and from its preparation by scripts/prepare_data.py.

python benchmarks/data_loading.py --data.path DIR --size 64

Both in one run and by turns, so that whatever else the machine does falls on both; preparing them first warms the page
cache.
"""

import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from guided_diffusion.commands.prepare_data import PrepareConfig, prepare_data
from guided_diffusion.config import run_command
from guided_diffusion.data.batches import EndlessBatches
from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.image_set import open_training_set


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Measure how fast batches come from a data set and from its preparation."""

    data: DataConfig
    """The images; their `num_workers` is what is measured."""
    size: int
    """Side of the crops, pixels."""
    batch_size: int = 64
    """Images in a batch."""
    images: int = 5000
    """Images in each measurement."""
    rounds: int = 3
    """Measurements of each, by turns."""


def main(config: BenchmarkConfig) -> None:
    with tempfile.TemporaryDirectory() as directory:
        packed = Path(directory) / "packed"
        prepare_data(PrepareConfig(data=config.data, size=config.size, out=packed))
        paths = {"as it is": config.data.path, "prepared": packed}
        rates: dict[str, list[float]] = {name: [] for name in paths}
        for _ in range(config.rounds):
            for name, path in paths.items():
                rates[name].append(images_per_second(replace(config.data, path=path), config))
    for name, measured in rates.items():
        listed = ", ".join(f"{rate:,.0f}" for rate in measured)
        print(f"{name}: {statistics.median(measured):,.0f} images/s ({listed}), {config.data.num_workers} workers")
    ratio = statistics.median(rates["prepared"]) / statistics.median(rates["as it is"])
    print(f"prepared / as it is: {ratio:.1f}")


def images_per_second(data: DataConfig, config: BenchmarkConfig) -> float:
    """Of the training's own stream of batches, without the start of its workers."""
    dataset = open_training_set(data, image_size=config.size)
    stream = EndlessBatches(dataset, batch_size=config.batch_size, seed=0, num_workers=data.num_workers).micro_batches()
    next(stream)
    batches = -(-config.images // config.batch_size)
    start = time.perf_counter()
    for _ in range(batches):
        next(stream)
    return batches * config.batch_size / (time.perf_counter() - start)


if __name__ == "__main__":
    run_command(BenchmarkConfig, main)
