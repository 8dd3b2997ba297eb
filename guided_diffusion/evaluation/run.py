"""The evaluation driver: opens two sets of images, passes each once through an extractor, writes the report."""

import logging
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from guided_diffusion.data.sources import ImageSource
from guided_diffusion.device import has_accelerator
from guided_diffusion.evaluation.config import EvaluationConfig
from guided_diffusion.evaluation.features import FeatureExtractor, slug
from guided_diffusion.evaluation.measure import Measured, Share, measure
from guided_diffusion.evaluation.protocol import protocol_record
from guided_diffusion.evaluation.report import Report, display_names, write_report
from guided_diffusion.evaluation.scoring import Target, class_accuracy, coverage, distances, scores, together
from guided_diffusion.evaluation.sides import Sides, open_sides
from guided_diffusion.evaluation.statistics import Gaussian, Reference

_logger = logging.getLogger(__name__)


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
    sides = open_sides(generated, real, extractor=extractor, config=config)
    state = _processes()
    samples = _measure(
        sides.generated, extractor, keep=config.generated_manifold, config=config, state=state, name="generated"
    )
    images = sides.real.images
    measured = (
        None
        if images is None
        else _measure(images, extractor, keep=config.real_manifold, config=config, state=state, name="real")
    )
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
    source: ImageSource,
    extractor: FeatureExtractor,
    *,
    keep: int,
    config: EvaluationConfig,
    state: PartialState,
    name: str,
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
        keep=keep,
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
    samples: Measured, target: Target, *, sides: Sides, extractor: FeatureExtractor, config: EvaluationConfig
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
        protocol=protocol_record(samples, target, sides=sides, extractor=extractor, config=config),
        display_names=display_names(published=extractor.published, num_generated=sides.generated.num_images),
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
