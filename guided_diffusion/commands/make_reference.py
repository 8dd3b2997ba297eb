"""The command that measures real images once, for all evaluations against them."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..config import check_at_least, run_command
from ..data.config import Labels, Window, check_window
from ..evaluation.extractors.config import ExtractorConfig, open_extractor
from ..files import file_sha256


@dataclass(frozen=True, kw_only=True)
class MakeReferenceConfig:
    """Write the statistics of real images, and some of the images, to a file that evaluate.py takes as --real."""

    images: Path
    """Folder or .zip of pictures, WebDataset shards, prepared images, a saved Hugging Face dataset, npz batch or
    samples."""
    out: Path
    """NAME.npz, in the published layout: mu, sigma, mu_s, sigma_s, arr_0. It must not exist, but as this very result.

    Until it is written, features are cached beside it in a hidden directory: 20 KB an image with Inception.
    """
    extractor: ExtractorConfig = ExtractorConfig()
    """Network whose features are measured."""
    image_size: int | None = None
    """Side in pixels of the images to compare; pictures get the published centre crop to it. null: as they are, of one
    size."""
    channels: int | None = None
    """Channels of pictures: 3 makes grey ones coloured, 4 keeps alpha. null: the mode of the files, which must be
    one."""
    labels: Labels | None = None
    """Labels of pictures in folders and zips, as data.labels of a training; null: class folders, if there are any."""
    window: Window | None = None
    """As data.window of a training, of pictures with grey of more than 8 bits; null: all 16 bits."""
    manifold_images: int = 10_000
    """Images, at most, to keep for precision, recall, density, coverage and kernel distance, which are absent with 0.
    Spread over the set; published."""
    batch_size: int = 64
    """Images of one forward pass of the extractor, per process."""

    def __post_init__(self) -> None:
        check_window(self.window, option="window")
        check_at_least(self, image_size=1, batch_size=1, manifold_images=0)


def make_reference_file(config: MakeReferenceConfig) -> None:
    """Measure, write, and print a summary on the main process."""
    # Here, so that --help and bad options do not wait for SciPy.
    from ..distributed import this_process
    from ..evaluation.reference import read_reference
    from ..evaluation.reference_builder import make_reference

    process = this_process()
    extractor = open_extractor(config.extractor, device=process.device)
    settings: dict[str, Any] = vars(config) | {"extractor": extractor}
    is_new = make_reference(**settings)
    if process.is_main:
        written = read_reference(config.out)
        assert written is not None
        count = written.pooled.count or 0
        summary = f"{count:,} images on {extractor.name}, with {min(config.manifold_images, count):,} of the images"
        state = "" if is_new else "is there already, "
        print(f"{config.out}: {state}statistics of {summary}; SHA-256 {file_sha256(config.out)}")


main = partial(run_command, MakeReferenceConfig, make_reference_file)
