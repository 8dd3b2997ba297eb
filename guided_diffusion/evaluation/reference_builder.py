"""Construction of reference files: one pass over real images, stored for all evaluations against them."""

import logging
from pathlib import Path
from shutil import rmtree

from ..data.config import Labels
from ..data.formats.npz import npz_members
from ..data.image_set import open_image_set
from ..data.summary import doubts
from ..distributed import on_main_process
from .extractors.features import FeatureExtractor
from .measure import spread_over
from .metrics.frechet import low_rank
from .protocol import source_record, versions
from .reference import Reference, write_reference
from .run import cache_directory, measure_source, refuse_unwritable

_logger = logging.getLogger(__name__)


def make_reference(
    images: Path,
    *,
    extractor: FeatureExtractor,
    out: Path,
    image_size: int | None = None,
    channels: int | None = None,
    labels: Labels | None = None,
    manifold_images: int = 10_000,
    batch_size: int = 64,
) -> None:
    """Measure the images at `images` and write `out`, whole or not at all.

    manifold_images: images, spread over the set, that go into the file for metrics that need more than statistics.
    Evaluating against the file, with as many real_manifold, gives the numbers that the images would. Several processes
    share the work; an interrupted run resumes as `evaluate` does.
    """
    _check_paths(images, out)
    source = open_image_set(images, image_size=image_size, channels=channels, labels=labels)
    if len(source) < 2:
        raise ValueError(f"{images} holds 1 image, and a covariance needs at least 2; give more")
    cache = cache_directory(out)
    measured = measure_source(source, extractor, name="images", batch_size=batch_size, manifold_size=0, cache=cache)
    record = source_record(source) | {
        "files_sha256": source.files_sha256(),
        "class_names": list(source.class_names) or None,
        "batch_size": batch_size,
        "versions": versions(),
    }
    reference = Reference(
        pooled=measured.pooled, spatial=measured.spatial, extractor=extractor.name, extractor_sha256=extractor.sha256,
        record=record,
    )  # fmt: skip

    def write() -> None:
        for warning in filter(None, (low_rank(measured.pooled, "real"), *doubts(source))):
            _logger.warning("%s", warning)
        write_reference(out, reference, images=source, kept=spread_over(len(source), keep=manifold_images).tolist())
        rmtree(cache, ignore_errors=True)

    on_main_process(write)


def _check_paths(images: Path, out: Path) -> None:
    if out.suffix != ".npz":
        raise ValueError(f"a reference file is NAME.npz, got --out {out}")
    if out.exists():
        raise FileExistsError(f"{out} is there already; remove it or give another --out")
    if out.resolve().is_relative_to(images.resolve()):
        raise ValueError(f"{out} would lie among the images of {images} and change them; give --out another directory")
    refuse_unwritable(out)
    if images.suffix == ".npz" and images.is_file() and "mu" in npz_members(images):
        # Its arr_0 would pass for a set of which it holds only some images.
        raise ValueError(
            f"{images} is a reference already (it holds mu): give it to evaluate.py as --real, or give here the images "
            f"that it was made of"
        )
