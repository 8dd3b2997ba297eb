"""The evaluation driver: opens two sets of images, passes each once through an extractor, and writes the report."""

import logging
import os
import shutil
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..data.config import Labels
from ..data.formats.samples import MANIFEST_NAME
from ..data.image_set import ImageSet
from ..data.summary import doubts, summary
from ..distributed import locked_for_run, on_main_process, this_process
from ..models.precision import exact_float32
from .config import EvaluationConfig
from .extractors.features import FeatureExtractor, slug
from .feature_cache import FeatureCache
from .image_warnings import image_warnings
from .inputs import MeasuredReal, open_generated, open_real
from .measure import MeasuredSet, measure
from .metrics import METRICS
from .protocol import protocol_record
from .report import Report, write_report
from .report_text import display_names

_logger = logging.getLogger(__name__)


def evaluate(
    *,
    generated: Path,
    real: Path | MeasuredReal,
    extractor: FeatureExtractor,
    config: EvaluationConfig | None = None,
    out: Path | None = None,
    page: bool = False,
    channels: int | None = None,
    labels: Labels | None = None,
) -> Report:
    """Compare the images at `generated` with those at `real`, write the report as JSON and return it.

    real: images, an npz of reference statistics, or the result of `measure_real`. out: None is `report_path`. page:
    also write an HTML page beside the report. channels, labels: of pictures, as of `open_image_set`. Several
    processes (torchrun, accelerate launch) share the batches, and all return the report. An interrupted evaluation
    leaves a cache beside the report; the same call resumes from it. Input that cannot be used is refused before
    anything is measured, as far as possible.
    """
    config, out = config or EvaluationConfig(), out or report_path(generated, extractor)
    refuse_unwritable(out)
    source = open_generated(generated, config=config, channels=channels, labels=labels)
    cache = cache_directory(out)
    with locked_for_run(out.parent, work="evaluation", name=out.name):
        if isinstance(real, Path):
            how = {"extractor": extractor, "config": config, "cache": cache, "labels": labels}
            real = measure_real(real, shape=source.shape, **how)
        found, wanted = (real.shape, real.extractor_sha256, real.config), (source.shape, extractor.sha256, config)
        if found != wanted:
            raise ValueError(f"{real.input.path} was measured for {found}, not for {wanted}; measure it again")
        measured = measure_source(
            source, extractor, name="generated", batch_size=config.batch_size, manifold_size=config.generated_manifold,
            keep_all=config.extrapolate or config.bootstrap > 0, cache=cache,
        )  # fmt: skip
        return on_main_process(lambda: _conclude(source, measured, real, extractor, out=out, page=page))


def measure_real(
    path: Path,
    *,
    shape: tuple[int, int, int],
    extractor: FeatureExtractor,
    config: EvaluationConfig,
    cache: Path | None = None,
    labels: Labels | None = None,
) -> MeasuredReal:
    """The real images or statistics at `path`, for evaluations of images of `shape` (H, W, C).

    Statistics that are stored count, features come from the images. cache: directory of interrupted measurements.
    """
    opened = open_real(path, shape=shape, extractor=extractor, config=config, labels=labels)
    stored = opened.reference
    measured = MeasuredSet(pooled=stored.pooled, spatial=stored.spatial) if stored else None
    if opened.images is not None:
        of_images = measure_source(
            opened.images, extractor, name="real", batch_size=config.batch_size, manifold_size=config.real_manifold,
            cache=cache,
        )  # fmt: skip
        measured = replace(of_images, pooled=stored.pooled, spatial=stored.spatial) if stored else of_images
    assert measured is not None  # `open_real` gives images or statistics
    return MeasuredReal(input=opened, measured=measured, shape=shape, extractor_sha256=extractor.sha256, config=config)


def measure_source(
    source: ImageSet,
    extractor: FeatureExtractor,
    *,
    name: str,
    batch_size: int,
    manifold_size: int,
    keep_all: bool = False,
    cache: Path | None,
) -> MeasuredSet:
    """`measure` by all processes, resuming from what `cache` holds of them; standard error says what they are."""
    if source.manifest is None and this_process().is_main:  # samples of this library need no introduction
        print(summary(source), file=sys.stderr)
    images = (str(source.path.resolve()), source.files_sha256(), len(source), source.shape, source.resize)
    if source.labelled_by is not None:
        images += (str(source.labelled_by),)  # labels are cached as well
    identity = sha256(repr((images, extractor.sha256, batch_size)).encode()).hexdigest()[:16]
    with exact_float32():  # whatever the extractor does about it itself
        return measure(
            source, extractor, batch_size=batch_size, manifold_size=manifold_size, keep_all=keep_all,
            process=this_process(), name=name, cache=FeatureCache(cache / identity) if cache else None,
        )  # fmt: skip


def report_path(generated: Path, extractor: FeatureExtractor) -> Path:
    """Default place of the report on `generated`: in a directory of samples, else beside the images or their archive,
    which stay as they are."""
    name = f"evaluation-{slug(extractor.name)}.json"
    if (generated / MANIFEST_NAME).is_file():
        return generated / name
    place = next((place for place in (generated, *generated.parents) if place.is_file()), generated)
    stem = "-".join([place.stem if place.is_file() else place.name, *generated.relative_to(place).parts])
    return place.with_name(f"{stem}-{name}")


def cache_directory(out: Path) -> Path:
    """Place of the features until the report `out` is written; hidden, so that it counts as no sample."""
    return out.with_name(f".{out.name}.parts")


def refuse_unwritable(out: Path) -> None:
    """Refuse a report that could not be written, by a ValueError or a PermissionError; creates nothing."""
    if out.is_dir():
        raise ValueError(f"the report goes into a file, but {out} is a directory; give another --out")
    parent = next(parent for parent in out.absolute().parents if parent.exists())
    if not parent.is_dir():
        raise ValueError(f"{out} cannot be written: {parent} is a file; say with --out FILE where it may go")
    if not os.access(parent, os.W_OK):
        raise PermissionError(f"{parent} cannot be written to; say with --out FILE where it may go")


def _conclude(
    source: ImageSet, generated: MeasuredSet, real: MeasuredReal, extractor: FeatureExtractor, *, out: Path, page: bool
) -> Report:
    """Compute the numbers, and write the report and its page."""
    sets = (generated, real.measured, real.config)
    warnings = [warning for metric in METRICS for warning in metric.warnings(*sets)]
    if source.path.resolve() == real.input.path.resolve():
        warnings.append(f"both sides are {source.path}: this says nothing about samples")
    else:
        if real.input.images is not None and real.input.images.manifest is not None:
            warnings.append(f"--real {real.input.path} holds samples, not real images; give samples as --generated")
        warnings += image_warnings(generated, real.measured)
    warnings += [doubt for images in (source, real.input.images) if images is not None for doubt in doubts(images)]
    for warning in warnings:
        _logger.warning("%s", warning)
    with exact_float32():
        results = [(metric, metric.result(*sets)) for metric in METRICS]

    def merged(part: str) -> dict[str, Any]:
        return {key: value for _, result in results for key, value in getattr(result, part).items()}

    report = Report(
        metrics=merged("values"),
        absent={item.key: why for metric, result in results if (why := result.missing) for item in metric.shown},
        per_class_accuracy=merged("per_class_accuracy"),
        details=merged("details"),
        warnings=warnings,
        protocol=protocol_record(source, generated, real, extractor),
        display_names=display_names(
            published=extractor.published, num_generated=len(source), num_manifold=generated.manifold_size
        ),
    )
    write_report(out, report)
    if page:
        from .page import write_evaluation_page  # here, since matplotlib takes a second to import

        write_evaluation_page(out.with_suffix(".html"), report, generated=source, real=real.input.images)
    shutil.rmtree(cache_directory(out), ignore_errors=True)
    return report
