"""The evaluation driver: opens two sets of images, passes each once through an extractor, writes the report."""

import logging
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from guided_diffusion.checkpoint import file_sha256
from guided_diffusion.data.listing import files_sha256
from guided_diffusion.data.sources import ImageSource, open_images
from guided_diffusion.device import has_accelerator
from guided_diffusion.evaluation.compare import Target, class_accuracy, coverage, distances, scores, together
from guided_diffusion.evaluation.features import FeatureExtractor, slug
from guided_diffusion.evaluation.measure import Measured, Share, measure
from guided_diffusion.evaluation.report import Report, display_names, write_report
from guided_diffusion.evaluation.statistics import Gaussian, Reference, read_reference

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How two sets of images are compared. The defaults are the published protocol, if the real side holds 10,000."""

    batch_size: int = 64
    """Images that go through the extractor at once, per process."""
    image_size: int | None = None
    """Side in pixels; pictures in folders get the published centre crop to it.

    None: the size of the generated images.
    """
    neighbours: int = 3
    """k of precision and recall: how far a ball around a feature reaches, in neighbours.

    3 is Kynkäänniemi's, and ADM's.
    """
    split_size: int = 5000
    """Images per split of the Inception Score, as published."""
    manifold_images: int = 50_000
    """Precision and recall use at most this many images a side, evenly spaced.

    Published: 10,000 real, 50,000 generated.
    """

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and value < 1:
                raise ValueError(f"evaluation's {name} must be positive, got {value}")
        if self.manifold_images <= self.neighbours:
            raise ValueError(f"manifold_images must exceed neighbours ({self.neighbours}), got {self.manifold_images}")


@dataclass(frozen=True, kw_only=True)
class RealSide:
    """What samples are compared with, before it is measured."""

    path: Path
    images: ImageSource | None
    """None: there are statistics only."""
    reference: Reference | None
    """Stored statistics; None: there are images only."""
    files_sha256: str
    """Of names, sizes and times of change, as `files_sha256` gives it."""


@dataclass(frozen=True, kw_only=True)
class _Sides:
    """The two sets before anything is measured."""

    generated: ImageSource
    real: RealSide


def evaluate(
    *,
    generated: Path,
    real: Path,
    extractor: FeatureExtractor,
    config: EvaluationConfig | None = None,
    out: Path | None = None,
) -> Report:
    """Compare the images at `generated` with those at `real`, write the report as JSON and return it.

    generated: what `open_images` takes. real: the same, or an npz of reference statistics. out: where the report goes;
    None puts `evaluation-<extractor>.json` beside the samples. Started as several processes (torchrun, accelerate
    launch), they share the batches, all return the report, and its numbers are one process's up to float64 rounding.

    Raises FileNotFoundError and ValueError for sources that are missing, damaged, empty, too small, or do not fit each
    other or the extractor; before anything is measured, as far as that can be known.
    """
    config = config or EvaluationConfig()
    sides = _open_sides(generated, real, extractor=extractor, config=config)
    state = _processes()
    samples = _measure(sides.generated, extractor, config=config, state=state, name="generated")
    images = sides.real.images
    measured = None if images is None else _measure(images, extractor, config=config, state=state, name="real")
    reports: list[Report | None] = [None]
    if state.is_main_process:
        target = _target(measured, sides.real.reference)
        report = _report(samples, target, sides=sides, extractor=extractor, config=config)
        write_report(out or report_path(generated, extractor), report)
        reports = [report]
    broadcast_object_list(reports)
    assert reports[0] is not None
    return reports[0]


def this_device() -> tuple[torch.device, bool]:
    """The device this process should compute on, and whether it is the one that prints."""
    state = _processes()
    return torch.device(state.device or "cpu"), state.is_main_process


def report_path(generated: Path, extractor: FeatureExtractor) -> Path:
    """Where the report on `generated` goes unless told otherwise: into the directory, or beside the npz file."""
    name = f"evaluation-{slug(extractor.name)}.json"
    return generated / name if generated.is_dir() else generated.with_name(f"{generated.stem}-{name}")


def _open_sides(generated: Path, real: Path, *, extractor: FeatureExtractor, config: EvaluationConfig) -> _Sides:
    samples = open_images(generated, size=config.image_size)
    _check_neighbours(samples, config)
    return _Sides(generated=samples, real=open_real(real, shape=samples.shape, extractor=extractor, config=config))


def open_real(
    path: Path, *, shape: tuple[int, int, int], extractor: FeatureExtractor, config: EvaluationConfig
) -> RealSide:
    """The real side at `path`, fit to be compared with generated images of `shape` (H, W, C).

    Raises:
        FileNotFoundError, ValueError: as `evaluate`, of that side.
    """
    reference = read_reference(path) if path.suffix == ".npz" and path.is_file() else None
    if reference is not None:
        _check_reference(path, reference, extractor)
    height, width, channels = shape
    images = None
    if reference is None or reference.has_images:
        images = open_images(path, size=height if height == width else None, channels=channels)
        if images.shape != shape:
            raise ValueError(
                f"the generated images have {height}x{width} pixels, those of {path} {images.shape[0]}x"
                f"{images.shape[1]}; compare sets of one size"
            )
        _check_neighbours(images, config)
    return RealSide(path=path, images=images, reference=reference, files_sha256=files_sha256(path))


def _check_neighbours(source: ImageSource, config: EvaluationConfig) -> None:
    if source.num_images <= config.neighbours:
        raise ValueError(
            f"{source.path} holds {source.num_images} images, but precision and recall look at {config.neighbours} "
            f"neighbours of each; give more images"
        )


def _check_reference(path: Path, reference: Reference, extractor: FeatureExtractor) -> None:
    if reference.extractor_sha256 is None and not extractor.is_inception:
        raise ValueError(
            f"{path} does not say which network its statistics are of, so they count as the published 2015 "
            f"Inception's, which {extractor.name} is not; give the images themselves as the real side"
        )
    if reference.extractor_sha256 not in (None, extractor.sha256):
        raise ValueError(
            f"{path} was made with {reference.extractor} (SHA-256 {reference.extractor_sha256}), "
            f"not with {extractor.name} ({extractor.sha256}); use the same extractor for both sides"
        )


def _processes() -> PartialState:
    # Without an accelerator, accelerate must be told so: else it starts the process group of torchrun and then takes
    # each process for the only one, and the group's sums would count every image once per process.
    state = PartialState(cpu=not has_accelerator())
    world_size = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    if world_size != state.num_processes:
        raise ValueError(
            f"accelerate sees {state.num_processes} process where {world_size} were started: something made its state "
            f"before, without cpu=True though there is no accelerator; evaluate in a program of its own, under torchrun"
        )
    return state


def _measure(
    source: ImageSource, extractor: FeatureExtractor, *, config: EvaluationConfig, state: PartialState, name: str
) -> Measured:
    device = torch.device(state.device or "cpu")
    share = Share(
        rank=state.process_index,
        world_size=state.num_processes,
        # Statistics are float64, which Apple's accelerator does not have.
        device=torch.device("cpu") if device.type == "mps" else device,
        progress=state.is_main_process,
    )
    return measure(
        source,
        extractor,
        batch_size=config.batch_size,
        manifold_images=config.manifold_images,
        share=share,
        name=name,
    )


def _target(measured: Measured | None, reference: Reference | None) -> Target:
    if reference is not None:
        manifold = None if measured is None else measured.manifold
        return Target(pooled=reference.pooled, spatial=reference.spatial, manifold=manifold)
    assert measured is not None
    return Target(pooled=measured.pooled, spatial=measured.spatial, manifold=measured.manifold)


def _report(
    samples: Measured, target: Target, *, sides: _Sides, extractor: FeatureExtractor, config: EvaluationConfig
) -> Report:
    for name, statistics in (("generated", samples.pooled), ("real", target.pooled)):
        _warn_of_low_rank(statistics, name)
    numbers = together(
        distances(samples, target),
        scores(samples, split_size=config.split_size),
        coverage(samples, target, neighbours=config.neighbours),
        class_accuracy(samples, label_names=sides.generated.class_names, class_names=extractor.class_names),
    )
    return Report(
        metrics=numbers.metrics,
        absent=numbers.absent,
        per_class_accuracy=numbers.per_class_accuracy,
        protocol=_protocol(samples, target, sides=sides, extractor=extractor, config=config),
        display_names=display_names(is_inception=extractor.is_inception, num_generated=sides.generated.num_images),
    )


def _warn_of_low_rank(statistics: Gaussian, name: str) -> None:
    dimensions = len(statistics.mean)
    if statistics.count is not None and statistics.count <= dimensions:
        _logger.warning(
            "the %s side has %d images for features of %d dimensions: its covariance is singular and the "
            "Fréchet distance strongly biased; give more than %d images",
            name,
            statistics.count,
            dimensions,
            dimensions,
        )


def _protocol(
    samples: Measured, target: Target, *, sides: _Sides, extractor: FeatureExtractor, config: EvaluationConfig
) -> dict[str, Any]:
    generated = _source_record(sides.generated) | {"num_manifold_images": len(samples.manifold)}
    images = sides.real.images
    real = {"path": str(sides.real.path), "kind": "statistics"} if images is None else _source_record(images)
    real |= {
        "files_sha256": sides.real.files_sha256,
        "num_images": target.pooled.count,
        "num_manifold_images": 0 if target.manifold is None else len(target.manifold),
    }
    if sides.real.reference is not None:
        real |= {"statistics": "stored", "sha256": file_sha256(sides.real.path)}
    return {
        "generated": generated,
        "real": real,
        "extractor": {"name": extractor.name, "sha256": extractor.sha256, "is_inception": extractor.is_inception},
        "settings": asdict(config),
        "versions": _versions(),
    }


def _source_record(source: ImageSource) -> dict[str, Any]:
    height, width, channels = source.shape
    return {
        "path": str(source.path),
        "kind": source.kind,
        "num_images": source.num_images,
        "image_size": [height, width],
        "channels": channels,
        "resize": source.resize,
        "manifest": source.manifest,
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("torch", "numpy", "scipy", "pillow", "torchmetrics", "torch-fidelity"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
