"""Construction of reference files: one pass over real images, stored for all evaluations against them."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from typing import Any

from ..config import to_plain
from ..data.config import refuse_among
from ..data.formats.npz import npz_members
from ..data.image_set import ImageSet, open_image_set
from ..data.summary import doubts
from ..distributed import locked_for_run, on_main_process
from .extractors.features import FeatureExtractor
from .measure import spread_over
from .metrics.frechet import low_rank
from .protocol import source_record, versions
from .reference import Reference, read_reference, write_reference
from .run import cache_directory, measure_source, refuse_unwritable

_logger = logging.getLogger(__name__)


def make_reference(
    images: Path,
    *,
    extractor: FeatureExtractor,
    out: Path,
    manifold_images: int = 10_000,
    batch_size: int = 64,
    **reading: Any,  # options of `open_image_set`
) -> bool:
    """Measure the images at `images` and write `out`, whole or not at all; False if this very result is there already.

    manifold_images: images, spread over the set, that go into the file for metrics that need more than statistics; with
    as many real_manifold, an evaluation gives the numbers that the images would. Resumes as `evaluate` does.

    Raises:
        FileExistsError: something else is at `out`.
    """
    _check_paths(images, out)
    source = open_image_set(images, **reading)
    if len(source) < 2:
        raise ValueError(f"{images} holds 1 image, and a covariance needs at least 2; give more")
    cache, kept = cache_directory(out), spread_over(len(source), keep=manifold_images).tolist()
    record = _record(source, kept=len(kept), batch_size=batch_size)
    with locked_for_run(out.parent, work="measurement", name=out.name):
        is_there = on_main_process(lambda: _is_finished(out, extractor, record))
        if not is_there:
            measured = measure_source(
                source, extractor, name="images", batch_size=batch_size, manifold_size=0, cache=cache
            )
            reference = Reference(
                pooled=measured.pooled, spatial=measured.spatial, extractor=extractor.name,
                extractor_sha256=extractor.sha256, record=record,
            )  # fmt: skip
            for warning in filter(None, (low_rank(measured.pooled, "real"), *doubts(source))):
                _logger.warning("%s", warning)
            on_main_process(lambda: write_reference(out, reference, images=source, kept=kept))
        on_main_process(lambda: rmtree(cache, ignore_errors=True))
    return not is_there


def _record(source: ImageSet, *, kept: int, batch_size: int) -> dict[str, Any]:
    return to_plain(
        source_record(source)
        | {
            "files_sha256": source.files_sha256(),
            "class_names": list(source.class_names) or None,
            "kept_images": kept,
            "batch_size": batch_size,
            "versions": versions(),
        }
    )


def _is_finished(out: Path, extractor: FeatureExtractor, record: Mapping[str, Any]) -> bool:
    """True for the same measurement: it was killed after its last step, or is repeated."""
    if not out.exists():
        return False
    with suppress(ValueError, OSError):
        found = read_reference(out)
        measured_by = found and (found.extractor, found.extractor_sha256)
        if found and (measured_by, found.record) == ((extractor.name, extractor.sha256), record):
            return True
    raise FileExistsError(f"{out} is there already; remove it or give another --out")


def _check_paths(images: Path, out: Path) -> None:
    if out.suffix != ".npz":
        raise ValueError(f"a reference file is NAME.npz, got --out {out}")
    refuse_among(images, out)
    refuse_unwritable(out)
    if images.suffix == ".npz" and images.is_file() and "mu" in npz_members(images):
        # Its arr_0 would pass for a set of which it holds only some images.
        raise ValueError(
            f"{images} is a reference already (it holds mu): give it to evaluate.py as --real, or give here the images "
            f"that it was made of"
        )
