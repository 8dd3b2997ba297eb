"""Images a second that a training gets from a data set, from its preparation, and by torchvision's ImageFolder.

python benchmarks/data_loading.py [--data.path DIR] [--size 64] [--data.num_workers 0]

Without --data.path, of JPEG files of 500x375 smooth random pixels. All from a warm file cache. torchvision's crop is
not the published one: it resizes with a filter once, where the published code takes means of 2x2 pixels first.
"""

import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image
from rounds import Table, Way, reasons, shown, timed

from guided_diffusion.commands.prepare_data import PrepareConfig, prepare_data
from guided_diffusion.config import run_command
from guided_diffusion.data.batches import EndlessBatches
from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.image_set import open_training_set

PHOTOS = Path("photographs")


@dataclass(frozen=True, kw_only=True)
class LoadingBenchmark:
    """Measure how fast batches come from a data set and from its preparation."""

    data: DataConfig = field(default_factory=lambda: DataConfig(path=PHOTOS, num_workers=0))
    """The images; their `num_workers` is what is measured."""
    size: int = 64
    """Side of the crops, pixels."""
    batch_size: int = 64
    """Images in a batch."""
    images: int = 512
    """Images in each measurement."""
    rounds: int = 3
    """Measurements of each, by turns."""


def main(config: LoadingBenchmark) -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as name:
        directory, data = Path(name), config.data
        if data.path == PHOTOS and not PHOTOS.exists():
            data = replace(data, path=write_photographs(directory / "photographs"))
        with redirect_stdout(sys.stderr):
            prepare_data(PrepareConfig(data=data, size=config.size, out=directory / "packed"))
        ways = {
            "ours, as it is": stream(data, config),
            "ours, prepared": stream(replace(data, path=directory / "packed"), config),
            "torchvision's ImageFolder": torchvision_stream(data.path, config),
        }
        timings = timed(ways, rounds=config.rounds)
    images = -(-config.images // config.batch_size) * config.batch_size
    rows = [[name, shown(timings.rate(name, images)), shown(timings.ratio("ours, as it is", name))] for name in ways]
    note = f"{config.size} pixels, {data.num_workers} workers. {reasons(timings)}"
    print(Table("Loading images", ("way", "images/s", "rate / ours, as it is"), rows, note))


def stream(data: DataConfig, config: LoadingBenchmark) -> Way:
    """Batches of a training's own stream."""
    dataset = open_training_set(data, image_size=config.size)
    batches = EndlessBatches(dataset, batch_size=config.batch_size, seed=0, num_workers=data.num_workers)
    micro_batches = batches.micro_batches()
    return _several(lambda: next(micro_batches), config)


def torchvision_stream(path: Path, config: LoadingBenchmark) -> Way:
    """Batches of torchvision's reader of class folders."""
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    crop = transforms.Compose([
        transforms.Resize(config.size), transforms.CenterCrop(config.size), transforms.ToTensor(),
        transforms.Normalize(0.5, 0.5),
    ])  # fmt: skip
    endless: list[object] = []

    def batch() -> object:
        with suppress(StopIteration):
            return next(endless[0]) if endless else next(iter(()))  # type: ignore[call-overload]
        loader = DataLoader(
            ImageFolder(path, crop), config.batch_size, shuffle=True, drop_last=True,
            num_workers=config.data.num_workers,
        )  # fmt: skip
        endless[:] = [iter(loader)]
        return next(endless[0])  # type: ignore[call-overload]

    return _several(batch, config)


def _several(batch: Callable[[], object], config: LoadingBenchmark) -> Way:
    return lambda: [batch() for _ in range(-(-config.images // config.batch_size))]


def write_photographs(folder: Path, *, count: int = 256) -> Path:
    """JPEG files in two class folders, as detailed as photographs are at that quality."""
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for number in range(count // 2):
            coarse = rng.integers(0, 256, (47, 63, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
            grain = rng.normal(0, 6, (375, 500, 3))
            pixels = (np.asarray(picture) + grain).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number:05d}.jpg", quality=90)
    return folder


if __name__ == "__main__":
    run_command(LoadingBenchmark, main)
