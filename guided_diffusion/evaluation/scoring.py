"""From two measured sets of images to all numbers there are about them, with a reason for each that is missing."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .config import EvaluationConfig
from .measure import Measured, spread_over
from .metrics.confidence import bootstrap_frechet_distance, extrapolated_frechet_distance
from .metrics.frechet import frechet_distance, inception_score, kernel_distance
from .metrics.neighbours import density_coverage, precision_recall
from .statistics import Gaussian

CONFIDENCE = 0.95
"""Of bootstrap intervals."""
_NO_IMAGES = "the reference holds statistics but no images (arr_0)"


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is known of the real side.

    spatial or manifold is None where only statistics are given, without that part.
    """

    pooled: Gaussian
    spatial: Gaussian | None
    manifold: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """metrics: by name, as a Report has them.

    absent: for each of the others, why. per_class_accuracy: by class name. details: what lies behind a number, as JSON
    values: a Report's.
    """

    metrics: dict[str, float]
    absent: dict[str, str] = field(default_factory=dict)
    per_class_accuracy: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


def distances(samples: Measured, target: Target) -> Numbers:
    """The two Fréchet distances."""
    metrics = {"frechet_distance": _distance(samples.pooled, target.pooled)}
    if samples.spatial is None:
        return Numbers(metrics=metrics, absent={"spatial_frechet_distance": "the extractor has no spatial features"})
    if target.spatial is None:
        return Numbers(metrics=metrics, absent={"spatial_frechet_distance": "the reference holds no mu_s, sigma_s"})
    return Numbers(metrics=metrics | {"spatial_frechet_distance": _distance(samples.spatial, target.spatial)})


def scores(samples: Measured, *, split_size: int) -> Numbers:
    """The Inception Score over splits, and its standard deviation over them."""
    if samples.probabilities is None:
        return Numbers(metrics={}, absent={"inception_score": "the extractor has no class probabilities"})
    rows = samples.probabilities
    if samples.order == "shuffled":
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).to(rows.device)]
    mean, deviation = inception_score(rows, split_size=split_size)
    return Numbers(metrics={"inception_score": mean, "inception_score_std": deviation})


def neighbourhoods(samples: Measured, target: Target, config: EvaluationConfig) -> Numbers:
    """What features themselves tell: precision and recall, density and coverage, the kernel distance."""
    if target.manifold is None:
        names = ("precision", "recall", "density", "coverage", "kernel_distance")
        return Numbers(metrics={}, absent=dict.fromkeys(names, _NO_IMAGES))
    real, generated = target.manifold, samples.manifold
    # All of them are kept where an interval or an extrapolation was asked for.
    generated = generated[spread_over(len(generated), keep=config.generated_manifold).to(generated.device)]
    parts = (precision_and_recall, density_and_coverage, kernel)
    return together(*(part(real, generated, config) for part in parts))


def precision_and_recall(real: Tensor, generated: Tensor, config: EvaluationConfig) -> Numbers:
    """Of features (N, D) and (M, D)."""
    precision, recall = precision_recall(real=real, generated=generated, k=config.neighbours)
    return Numbers(metrics={"precision": precision, "recall": recall})


def density_and_coverage(real: Tensor, generated: Tensor, config: EvaluationConfig) -> Numbers:
    """Of features (N, D) and (M, D), or why not."""
    if len(real) <= config.density_neighbours:
        reason = f"it looks at {config.density_neighbours} neighbours, of {len(real)} real images"
        return Numbers(metrics={}, absent={"density": reason, "coverage": reason})
    density, coverage = density_coverage(real=real, generated=generated, k=config.density_neighbours)
    return Numbers(metrics={"density": density, "coverage": coverage})


def kernel(real: Tensor, generated: Tensor, config: EvaluationConfig) -> Numbers:
    """The kernel distance of features (N, D) and (M, D), and its standard deviation over subsets, or why not."""
    fewest = min(len(real), len(generated))
    if fewest < config.kid_subset_size:
        reason = (
            f"{config.kid_subset_size} images a side are its subsets (--protocol.kid_subset_size), there are {fewest}"
        )
        return Numbers(metrics={}, absent={"kernel_distance": reason})
    mean, deviation = kernel_distance(
        real=real, generated=generated, subsets=config.kid_subsets, subset_size=config.kid_subset_size
    )
    return Numbers(metrics={"kernel_distance": mean, "kernel_distance_std": deviation})


def confidence(samples: Measured, target: Target, config: EvaluationConfig) -> Numbers:
    """How sure the Fréchet distance is, as far as that was asked for: of samples whose features are all kept."""
    numbers = Numbers(metrics={})
    classes = samples.labels if _is_balanced(samples.labels) else None
    if config.extrapolate:
        name = "frechet_distance_extrapolated"
        try:
            found = extrapolated_frechet_distance(samples.manifold, target.pooled, classes=classes)
        except ValueError as error:  # too few samples for it
            numbers.absent[name] = str(error)
        else:
            numbers.metrics[name] = found.distance
            numbers.details["extrapolation"] = asdict(found)
    if config.bootstrap:
        with tqdm(total=config.bootstrap, desc="bootstrap", unit="set") as bar:
            interval = bootstrap_frechet_distance(
                samples.manifold,
                target.pooled,
                resamples=config.bootstrap,
                classes=classes,
                confidence=CONFIDENCE,
                on_resample=bar.update,
            )
        settings = {"confidence": CONFIDENCE, "resamples": config.bootstrap}
        numbers.details["bootstrap"] = asdict(interval) | settings
    return numbers


def class_accuracy(
    samples: Measured, *, label_names: tuple[str, ...] | None, class_names: tuple[str, ...] | None
) -> Numbers:
    """How often the extractor sees the asked class: overall, and for each class that was asked for.

    label_names: what the samples' labels index. class_names: what the columns of the probabilities are. The two are
    matched by name, so that their order does not matter. `open_image_set` refuses labels beyond label_names.
    """
    reason = _why_no_accuracy(samples.labels, label_names, class_names)
    if reason is not None:
        return Numbers(metrics={}, absent={"accuracy": reason})
    assert samples.labels is not None
    assert samples.probabilities is not None
    assert label_names is not None
    assert class_names is not None
    labelled = samples.labels >= 0
    labels = samples.labels[labelled]
    column = torch.tensor([class_names.index(name) for name in label_names], device=labels.device)
    right = (samples.probabilities[labelled].argmax(dim=1) == column[labels]).double()
    per_class = {label_names[label]: float(right[labels == label].mean()) for label in labels.unique().tolist()}
    return Numbers(metrics={"accuracy": float(right.mean())}, per_class_accuracy=per_class)


def all_numbers(
    samples: Measured,
    target: Target,
    *,
    config: EvaluationConfig,
    label_names: tuple[str, ...] | None,
    class_names: tuple[str, ...] | None,
) -> Numbers:
    """Everything that can be said, and of the rest why not. Arguments as `class_accuracy`'s."""
    return together(
        distances(samples, target),
        confidence(samples, target, config),
        scores(samples, split_size=config.split_size),
        neighbourhoods(samples, target, config),
        class_accuracy(samples, label_names=label_names, class_names=class_names),
    )


def together(*parts: Numbers) -> Numbers:
    """All numbers in one record."""
    total = Numbers(metrics={})
    for part in parts:
        total.metrics.update(part.metrics)
        total.absent.update(part.absent)
        total.per_class_accuracy.update(part.per_class_accuracy)
        total.details.update(part.details)
    return total


def _is_balanced(labels: Tensor | None) -> bool:
    """Whether each class has as many samples as any other: then these numbers were no chance."""
    if labels is None or (labels < 0).any():
        return False
    counts = labels.unique(return_counts=True)[1]
    return int(counts.max() - counts.min()) <= 1


def _distance(first: Gaussian, second: Gaussian) -> float:
    return frechet_distance(first.mean, first.cov, second.mean, second.cov)


def _why_no_accuracy(
    labels: Tensor | None, label_names: tuple[str, ...] | None, class_names: tuple[str, ...] | None
) -> str | None:
    if labels is None or not (labels >= 0).any():
        return "the samples carry no labels"
    if label_names is None:
        return "nothing says which classes the samples' labels mean"
    if class_names is None:
        return "the extractor does not know the names of its classes"
    unknown = [name for name in label_names if name not in class_names]
    return f"the extractor does not know the class {unknown[0]!r}" if unknown else None
