"""Construction of reference files: one pass over real images, stored for all evaluations against them."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import rmtree
from typing import Any

from torch import Tensor

from ..data.formats.npz import npz_members
from ..data.image_set import ImageSet, open_image_set
from ..distributed import on_main_process
from .config import EvaluationConfig
from .extractors.features import FeatureExtractor, Features
from .extractors.weights import PublishedWeights
from .measure import MeasuredSet, spread_over
from .metrics.frechet import low_rank
from .protocol import source_record, versions
from .reference import write_reference
from .run import cache_directory, measure_source, refuse_unwritable

_logger = logging.getLogger(__name__)


def make_reference(
    images: Path,
    *,
    extractor: FeatureExtractor,
    out: Path,
    image_size: int | None = None,
    channels: int | None = None,
    manifold_images: int = 10_000,
    batch_size: int = 64,
) -> None:
    """Measure the images at `images` and write `out`, whole or not at all.

    image_size, channels: as of `open_image_set`. manifold_images: images, spread over the set, that go into the file
    for metrics that need more than statistics; 0: none. Evaluating against the file, with as many real_manifold, gives
    the numbers that the images would. Several processes share the work; an interrupted run resumes as `evaluate` does.

    Raises:
        FileNotFoundError: missing images.
        ValueError: images that are damaged, too few or of mixed sizes, or a reference in their place; an `out` that is
            no name of an npz, or lies among the images.
        FileExistsError: `out` exists.
        PermissionError: the directory of `out` cannot be written to.
    """
    _check_out(out, images)
    _refuse_reference(images)
    source = open_image_set(images, image_size=image_size, channels=channels)
    if len(source) < 2:
        raise ValueError(f"{images} holds 1 image, and a covariance needs at least 2; give more")
    config = EvaluationConfig(batch_size=batch_size)
    measured = measure_source(
        source, _statistics_of(extractor), name="images", config=config, manifold_size=0, cache=cache_directory(out)
    )
    kept = spread_over(len(source), keep=manifold_images).tolist()
    on_main_process(lambda: _write(out, measured, source, kept, extractor=extractor, batch_size=batch_size))


def _write(
    out: Path,
    measured: MeasuredSet,
    source: ImageSet,
    kept: list[int],
    *,
    extractor: FeatureExtractor,
    batch_size: int,
) -> None:
    if warning := low_rank(measured.pooled, "real"):
        _logger.warning("%s", warning)
    write_reference(
        out,
        pooled=measured.pooled,
        spatial=measured.spatial,
        extractor=extractor.name,
        extractor_sha256=extractor.sha256,
        record=_record(source, batch_size=batch_size),
        images=source,
        kept=kept,
    )
    rmtree(cache_directory(out), ignore_errors=True)


@dataclass(frozen=True)
class _StatisticsOnly:
    """An extractor without class probabilities: a reference does not use them, and those of a million images take 4 GB
    in every process."""

    network: FeatureExtractor
    name: str
    sha256: str
    published: PublishedWeights | None
    resize: str
    class_names: None = None

    def __call__(self, images_uint8: Tensor) -> Features:
        return replace(self.network(images_uint8), probabilities=None)


def _statistics_of(extractor: FeatureExtractor) -> FeatureExtractor:
    return _StatisticsOnly(extractor, extractor.name, extractor.sha256, extractor.published, extractor.resize)


def _record(source: ImageSet, *, batch_size: int) -> dict[str, Any]:
    """Description of the images, and the versions that measured them."""
    return source_record(source) | {
        "files_sha256": source.files_sha256(),
        "class_names": list(source.class_names) or None,
        "batch_size": batch_size,
        "versions": versions(),
    }


def _refuse_reference(images: Path) -> None:
    """Its arr_0 would pass for a set of which it holds only some images."""
    if images.suffix == ".npz" and images.is_file() and "mu" in npz_members(images):
        raise ValueError(
            f"{images} is a reference already (it holds mu): give it to evaluate.py as --real, or give here the images "
            f"that it was made of"
        )


def _check_out(out: Path, images: Path) -> None:
    if out.suffix != ".npz":
        raise ValueError(f"a reference file is NAME.npz, got --out {out}")
    if out.exists():
        raise FileExistsError(f"{out} is there already; remove it or give another --out")
    if out.resolve().is_relative_to(images.resolve()):
        raise ValueError(f"{out} would lie among the images of {images} and change them; give --out another directory")
    refuse_unwritable(out)
