"""From two measured sets of images to all numbers there are about them, with a reason for each that is missing."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from guided_diffusion.evaluation.confidence import bootstrap_frechet_distance, extrapolated_frechet_distance
from guided_diffusion.evaluation.config import EvaluationConfig
from guided_diffusion.evaluation.manifold import density_coverage, precision_recall
from guided_diffusion.evaluation.measure import Measured, spread_over
from guided_diffusion.evaluation.metrics import frechet_distance, inception_score, kernel_distance
from guided_diffusion.evaluation.statistics import Gaussian

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
    mean, deviation = inception_score(samples.probabilities, split_size=split_size)
    return Numbers(metrics={"inception_score": mean, "inception_score_std": deviation})


def kernel(samples: Measured, target: Target, config: EvaluationConfig) -> Numbers:
    """The kernel distance, and its standard deviation over subsets."""
    if target.manifold is None:
        return Numbers(metrics={}, absent={"kernel_distance": _NO_IMAGES})
    fewest = min(len(samples.manifold), len(target.manifold))
    if fewest < config.kid_subset_size:
        reason = f"its subsets take {config.kid_subset_size} images a side, there are {fewest}; see kid_subset_size"
        return Numbers(metrics={}, absent={"kernel_distance": reason})
    mean, deviation = kernel_distance(
        real=target.manifold,
        generated=samples.manifold,
        subsets=config.kid_subsets,
        subset_size=config.kid_subset_size,
    )
    return Numbers(metrics={"kernel_distance": mean, "kernel_distance_std": deviation})


def manifold(samples: Measured, target: Target, config: EvaluationConfig) -> Numbers:
    """Precision and recall, density and coverage."""
    if target.manifold is None:
        names = ("precision", "recall", "density", "coverage")
        return Numbers(metrics={}, absent=dict.fromkeys(names, _NO_IMAGES))
    sides = {"real": target.manifold, "generated": samples.manifold}
    precision, recall = precision_recall(**sides, k=config.neighbours)
    metrics = {"precision": precision, "recall": recall}
    if len(target.manifold) <= config.density_neighbours:
        reason = f"it looks at {config.density_neighbours} neighbours, of {len(target.manifold)} real images"
        return Numbers(metrics=metrics, absent={"density": reason, "coverage": reason})
    density, coverage = density_coverage(**sides, k=config.density_neighbours)
    return Numbers(metrics=metrics | {"density": density, "coverage": coverage})


def confidence(samples: Measured, target: Target, config: EvaluationConfig) -> Numbers:
    """How sure the Fréchet distance is, as far as that was asked for."""
    numbers = Numbers(metrics={})
    classes = _balanced_classes(samples)
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
    matched by name, so that their order does not matter. Raises ValueError for a label beyond label_names.
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
    if labels.max() >= len(label_names):
        raise ValueError(f"a sample has label {int(labels.max())}, but there are only {len(label_names)} class names")
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
        kernel(samples, target, config),
        manifold(samples, target, config),
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


def _balanced_classes(samples: Measured) -> Tensor | None:
    """The classes of the kept features if each has as many samples as any other: then these numbers were no chance."""
    if samples.labels is None or (samples.labels < 0).any():
        return None
    counts = samples.labels.unique(return_counts=True)[1]
    if counts.max() - counts.min() > 1:
        return None
    return samples.labels[spread_over(len(samples.labels), keep=len(samples.manifold)).to(samples.labels.device)]


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
