"""The evaluation driver: opens two sets of images, passes each once through an extractor, and writes the report."""

import logging
import os
import shutil
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from ..data.formats.samples import MANIFEST_NAME
from ..data.image_set import ImageSet
from ..distributed import on_main_process, this_process
from .config import EvaluationConfig
from .extractors.features import FeatureExtractor, exact_float32, slug
from .feature_cache import FeatureCache
from .inputs import Inputs, RealInput, open_generated, open_real
from .measure import MeasuredSet, measure
from .metrics import METRICS
from .protocol import protocol_record
from .report import Report, write_report
from .report_text import display_names

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MeasuredReal:
    """Real images after their pass, for any number of evaluations with the same extractor and settings."""

    input: RealInput
    measured: MeasuredSet
    shape: tuple[int, int, int]
    """Of the generated images that it was opened for: (H, W, C)."""
    extractor_sha256: str
    config: EvaluationConfig

    def check(self, *, shape: tuple[int, int, int], extractor: FeatureExtractor, config: EvaluationConfig) -> None:
        """Refuse an evaluation that this was not measured for.

        Raises:
            ValueError: another shape, extractor or setting.
        """
        found, wanted = (self.shape, self.extractor_sha256, self.config), (shape, extractor.sha256, config)
        if found != wanted:
            raise ValueError(f"{self.input.path} was measured for {found}, not for {wanted}; measure it again")


def evaluate(
    *,
    generated: Path,
    real: Path | MeasuredReal,
    extractor: FeatureExtractor,
    config: EvaluationConfig | None = None,
    out: Path | None = None,
    page: bool = False,
    channels: int | None = None,
) -> Report:
    """Compare the images at `generated` with those at `real`, write the report as JSON and return it.

    real: images, an npz of reference statistics, or the result of `measure_real`. out: None is `report_path`. page:
    also write an HTML page, `page_path(out)`. channels: of generated pictures, as of `open_image_set`. Several
    processes (torchrun, accelerate launch) share the batches, and all return the report. An interrupted evaluation
    leaves a cache beside the report; the same call resumes from it.

    Raises:
        FileNotFoundError: missing images.
        ValueError: damaged or too few images, or sets that do not fit each other or the extractor; before anything is
            measured, as far as possible.
        PermissionError: the report's directory cannot be written to.
    """
    config, out = config or EvaluationConfig(), out or report_path(generated, extractor)
    refuse_unwritable(out)
    source = open_generated(generated, config=config, channels=channels)
    if isinstance(real, MeasuredReal):
        real.check(shape=source.shape, extractor=extractor, config=config)
        opened = real.input
    else:
        opened = open_real(real, shape=source.shape, extractor=extractor, config=config)
    measured = measure_source(source, extractor, name="generated", config=config, cache=cache_directory(out))
    target = real.measured if isinstance(real, MeasuredReal) else _measured(opened, extractor, config, out=out)
    inputs = Inputs(generated=source, real=opened)
    return on_main_process(lambda: _conclude(measured, target, inputs, extractor, config, out=out, page=page))


def measure_real(
    path: Path, *, shape: tuple[int, int, int], extractor: FeatureExtractor, config: EvaluationConfig, out: Path | None
) -> MeasuredReal:
    """The real images at `path`, for evaluations of images of `shape` (H, W, C).

    out: the file beside which features are cached; None: nowhere.

    Raises:
        FileNotFoundError: missing images.
        ValueError: damaged or too few images, or of another shape or extractor.
    """
    opened = open_real(path, shape=shape, extractor=extractor, config=config)
    return MeasuredReal(
        input=opened,
        measured=_measured(opened, extractor, config, out=out),
        shape=shape,
        extractor_sha256=extractor.sha256,
        config=config,
    )


def measure_source(
    source: ImageSet,
    extractor: FeatureExtractor,
    *,
    name: str,
    config: EvaluationConfig,
    manifold_size: int | None = None,
    cache: Path | None,
) -> MeasuredSet:
    """`measure` by all processes, with a progress bar called `name`; cache: directory of interrupted measurements.

    manifold_size: None is that of generated images, of which all features are kept if a metric resamples them.
    """
    kept = None if cache is None else FeatureCache(cache / _identity(source, extractor, config.batch_size))
    with exact_float32():  # whatever the extractor does about it itself
        return measure(
            source,
            extractor,
            batch_size=config.batch_size,
            manifold_size=config.generated_manifold if manifold_size is None else manifold_size,
            keep_all=manifold_size is None and config.keeps_all_features,
            process=this_process(),
            name=name,
            cache=kept,
        )


def report_path(generated: Path, extractor: FeatureExtractor) -> Path:
    """Default place of the report on `generated`: in a directory of samples, else beside the images or their archive,
    which stay as they are."""
    name = f"evaluation-{slug(extractor.name)}.json"
    if (generated / MANIFEST_NAME).is_file():
        return generated / name
    place = next((place for place in (generated, *generated.parents) if place.is_file()), generated)
    stem = "-".join([place.stem if place.is_file() else place.name, *generated.relative_to(place).parts])
    return place.with_name(f"{stem}-{name}")


def page_path(out: Path) -> Path:
    """Place of the page of the report `out`."""
    return out.with_suffix(".html")


def cache_directory(out: Path) -> Path:
    """Place of the features until the report `out` is written; hidden, so that it counts as no sample."""
    return out.with_name(f".{out.name}.parts")


def refuse_unwritable(out: Path) -> None:
    """Refuse a report that could not be written; creates nothing.

    Raises:
        ValueError: `out` is a directory, or lies in a file.
        PermissionError: its directory cannot be written to.
    """
    if out.is_dir():
        raise ValueError(f"the report goes into a file, but {out} is a directory; give another --out")
    parent = next(parent for parent in out.absolute().parents if parent.exists())
    if not parent.is_dir():
        raise ValueError(f"{out} cannot be written: {parent} is a file; say with --out FILE where it may go")
    if not os.access(parent, os.W_OK):
        raise PermissionError(f"{parent} cannot be written to; say with --out FILE where it may go")


def _measured(
    real: RealInput, extractor: FeatureExtractor, config: EvaluationConfig, *, out: Path | None
) -> MeasuredSet:
    """Statistics that are stored count, features come from the images."""
    measured = None
    if real.images is not None:
        cache = None if out is None else cache_directory(out)
        measured = measure_source(
            real.images, extractor, name="real", config=config, manifold_size=config.real_manifold, cache=cache
        )
    if real.reference is None:
        assert measured is not None
        return measured
    stored = MeasuredSet(pooled=real.reference.pooled)
    return replace(measured or stored, pooled=real.reference.pooled, spatial=real.reference.spatial)


def _identity(source: ImageSet, extractor: FeatureExtractor, batch_size: int) -> str:
    """Hash of everything that a batch's features depend on."""
    images = (str(source.path.resolve()), source.files_sha256(), len(source), source.shape, source.resize)
    return sha256(repr((images, extractor.sha256, batch_size)).encode()).hexdigest()[:16]


def _conclude(
    generated: MeasuredSet,
    real: MeasuredSet,
    inputs: Inputs,
    extractor: FeatureExtractor,
    config: EvaluationConfig,
    *,
    out: Path,
    page: bool,
) -> Report:
    """Compute the numbers, and write the report and its page."""
    with exact_float32():
        report = _report(generated, real, inputs, extractor, config)
    write_report(out, report)
    if page:
        from .page import write_evaluation_page  # here, since matplotlib takes a second to import

        write_evaluation_page(page_path(out), report, generated=inputs.generated, real=inputs.real.images)
    shutil.rmtree(cache_directory(out), ignore_errors=True)
    return report


def _report(
    generated: MeasuredSet, real: MeasuredSet, inputs: Inputs, extractor: FeatureExtractor, config: EvaluationConfig
) -> Report:
    warnings = [warning for metric in METRICS for warning in metric.warnings(generated, real, config)]
    if inputs.generated.path.resolve() == inputs.real.path.resolve():
        warnings.append(f"both sides are {inputs.generated.path}: this says nothing about samples")
    for warning in warnings:
        _logger.warning("%s", warning)
    results = [(metric, metric.result(generated, real, config)) for metric in METRICS]
    return Report(
        metrics={key: value for _, result in results for key, value in result.values.items()},
        absent={
            number.key: result.missing
            for metric, result in results
            for number in metric.numbers
            if result.missing and not number.is_deviation
        },
        per_class_accuracy={name: value for _, found in results for name, value in found.per_class_accuracy.items()},
        details={name: value for _, found in results for name, value in found.details.items()},
        warnings=warnings,
        protocol=protocol_record(generated, real, inputs=inputs, extractor=extractor, config=config),
        display_names=display_names(
            published=extractor.published,
            num_generated=len(inputs.generated),
            num_manifold=generated.manifold_size,
        ),
    )
