"""The evaluation driver: opens two sets of images, passes each once through an extractor, writes the report."""

import logging
import os
import shutil
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ..data.formats.samples import MANIFEST_NAME
from ..data.sources import ImageSource, files_fingerprint
from ..distributed import on_main_process, this_process
from .config import EvaluationConfig
from .extractors.features import FeatureExtractor, exact_float32, slug
from .feature_cache import Parts
from .inputs import RealSide, Sides, open_generated, open_real
from .measure import Measured, Share, measure
from .page import write_evaluation_page
from .protocol import protocol_record
from .report import Report, display_names, write_report
from .scoring import Target, all_numbers
from .warnings import doubts

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MeasuredReal:
    """A real side after its pass, for any number of evaluations with the same extractor and settings."""

    side: RealSide
    target: Target
    shape: tuple[int, int, int]
    """Of the generated images that it was opened for: (H, W, C)."""
    extractor_sha256: str
    config: EvaluationConfig


def evaluate(
    *,
    generated: Path,
    real: Path | MeasuredReal,
    extractor: FeatureExtractor,
    config: EvaluationConfig | None = None,
    out: Path | None = None,
    page: bool = False,
) -> Report:
    """Compare the images at `generated` with those at `real`, write the report as JSON and return it.

    generated: what `open_images` takes. real: the same, or an npz of reference statistics, or what `measure_real` gave.
    out: where the report goes; None puts `evaluation-<extractor>.json` beside the samples. page: write it as an HTML
    page as well, `page_path(out)`.

    Started as several processes (torchrun, accelerate launch), they share the batches, all return the report, and its
    numbers are one process's up to float64 rounding. A killed evaluation leaves what it measured in a hidden directory
    beside the report; the same call goes on from there and removes it in the end.

    Raises:
        FileNotFoundError, ValueError: sources that are missing, damaged, empty, too small, or do not fit each other or
            the extractor; before anything is measured, as far as that can be known.
        PermissionError: the report's directory cannot be written to.
    """
    config = config or EvaluationConfig()
    out = out or report_path(generated, extractor)
    refuse_unwritable(out)
    source = open_generated(generated, config=config)
    opened = _opened(real, source.shape, extractor, config)
    keeps_all = config.extrapolate or config.bootstrap
    samples = measure_source(
        source, extractor, keep=source.num_images if keeps_all else config.generated_manifold,
        batch_size=config.batch_size, name="generated", parts=parts_directory(out),
    )  # fmt: skip
    if isinstance(opened, MeasuredReal):
        side, target = opened.side, opened.target
    else:
        side, target = opened, _target(opened, extractor, config, parts=parts_directory(out))
    sides = Sides(generated=source, real=side)

    def conclude() -> Report:
        with exact_float32():
            report = _report(samples, target, sides=sides, extractor=extractor, config=config)
        write_report(out, report)
        if page:
            write_evaluation_page(page_path(out), report, generated=source, real=side.images)
        shutil.rmtree(parts_directory(out), ignore_errors=True)
        return report

    return on_main_process(conclude)


def measure_real(
    path: Path,
    *,
    shape: tuple[int, int, int],
    extractor: FeatureExtractor,
    config: EvaluationConfig,
    parts: Path | None = None,
) -> MeasuredReal:
    """The real side at `path`, for evaluations of images of `shape` (H, W, C).

    parts: directory that keeps what was measured, in case this is killed; None: nothing is kept.

    Raises:
        FileNotFoundError, ValueError: as `evaluate`, of that side.
    """
    side = open_real(path, shape=shape, extractor=extractor, config=config)
    target = _target(side, extractor, config, parts=parts)
    return MeasuredReal(side=side, target=target, shape=shape, extractor_sha256=extractor.sha256, config=config)


def measure_source(
    source: ImageSource, extractor: FeatureExtractor, *, keep: int, batch_size: int, name: str, parts: Path | None
) -> Measured:
    """`measure` by as many processes as there are, with a bar that says `name`, going on from what is in `parts`."""
    process = this_process()
    share = Share(rank=process.rank, world_size=process.world_size, device=process.device, progress=process.is_main)
    kept = None if parts is None else Parts(parts / _identity(source, extractor, batch_size))
    with exact_float32():  # whatever the extractor does about it itself
        return measure(source, extractor, batch_size=batch_size, keep=keep, share=share, name=name, parts=kept)


def report_path(generated: Path, extractor: FeatureExtractor) -> Path:
    """Where the report on `generated` goes unless told otherwise: into a directory of samples, else beside the images,
    or the archive that they lie in, to leave these as they are."""
    name = f"evaluation-{slug(extractor.name)}.json"
    if (generated / MANIFEST_NAME).is_file():
        return generated / name
    place = next((place for place in (generated, *generated.parents) if place.is_file()), generated)
    stem = "-".join([place.stem if place.is_file() else place.name, *generated.relative_to(place).parts])
    return place.with_name(f"{stem}-{name}")


def page_path(out: Path) -> Path:
    """Where the page of the report `out` goes."""
    return out.with_suffix(".html")


def parts_directory(out: Path) -> Path:
    """Where what was measured for `out` lies until that is written; hidden, so that it counts as no sample."""
    return out.with_name(f".{out.name}.parts")


def _opened(
    real: Path | MeasuredReal, shape: tuple[int, int, int], extractor: FeatureExtractor, config: EvaluationConfig
) -> RealSide | MeasuredReal:
    if isinstance(real, Path):
        return open_real(real, shape=shape, extractor=extractor, config=config)
    found, wanted = (real.shape, real.extractor_sha256, real.config), (shape, extractor.sha256, config)
    if found != wanted:
        raise ValueError(f"{real.side.path} was measured for {found}, not for {wanted}; measure it again")
    return real


def _target(side: RealSide, extractor: FeatureExtractor, config: EvaluationConfig, *, parts: Path | None) -> Target:
    measured = (
        None
        if side.images is None
        else measure_source(
            side.images, extractor, keep=config.real_manifold, batch_size=config.batch_size, name="real", parts=parts
        )
    )
    if side.reference is not None:
        manifold = None if measured is None else measured.manifold
        return Target(pooled=side.reference.pooled, spatial=side.reference.spatial, manifold=manifold)
    assert measured is not None
    return Target(pooled=measured.pooled, spatial=measured.spatial, manifold=measured.manifold)


def _identity(source: ImageSource, extractor: FeatureExtractor, batch_size: int) -> str:
    """Of all that a batch's features depend on."""
    told = (str(source.path.resolve()), files_fingerprint(source), source.num_images, source.shape, source.resize)
    return sha256(repr((told, extractor.sha256, batch_size)).encode()).hexdigest()[:16]


def refuse_unwritable(out: Path) -> None:
    """Raises ValueError if a file `out` could not be, PermissionError if it could not be written; makes nothing."""
    if out.is_dir():
        raise ValueError(f"the report goes into a file, but {out} is a directory; give another --out")
    parent = next(parent for parent in out.absolute().parents if parent.exists())
    if not parent.is_dir():
        raise ValueError(f"{out} cannot be written: {parent} is a file; say with --out FILE where it may go")
    if not os.access(parent, os.W_OK):
        raise PermissionError(f"{parent} cannot be written to; say with --out FILE where it may go")


def _report(
    samples: Measured, target: Target, *, sides: Sides, extractor: FeatureExtractor, config: EvaluationConfig
) -> Report:
    doubtful = doubts(samples, target, sides=sides, config=config)
    for doubt in doubtful:
        _logger.warning("%s", doubt)
    numbers = all_numbers(
        samples,
        target,
        config=config,
        label_names=sides.generated.class_names,
        class_names=extractor.class_names,
    )
    return Report(
        metrics=numbers.metrics,
        absent=numbers.absent,
        per_class_accuracy=numbers.per_class_accuracy,
        details=numbers.details,
        doubts=doubtful,
        protocol=protocol_record(samples, target, sides=sides, extractor=extractor, config=config),
        display_names=display_names(
            published=extractor.published,
            num_generated=sides.generated.num_images,
            num_nearest=min(sides.generated.num_images, config.generated_manifold),
        ),
    )
