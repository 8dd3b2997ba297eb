"""From two measured sets of images to all numbers there are about them, with a reason for each that is missing."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from guided_diffusion.evaluation.measure import Measured
from guided_diffusion.evaluation.metrics import frechet_distance, inception_score, precision_recall
from guided_diffusion.evaluation.statistics import Gaussian


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

    absent: for each of the others, why. per_class_accuracy: by class name.
    """

    metrics: dict[str, float]
    absent: dict[str, str] = field(default_factory=dict)
    per_class_accuracy: dict[str, float] = field(default_factory=dict)


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


def coverage(samples: Measured, target: Target, *, neighbours: int) -> Numbers:
    """Precision and recall."""
    if target.manifold is None:
        reason = "the reference holds statistics but no images (arr_0)"
        return Numbers(metrics={}, absent={"precision": reason, "recall": reason})
    precision, recall = precision_recall(real=target.manifold, generated=samples.manifold, k=neighbours)
    return Numbers(metrics={"precision": precision, "recall": recall})


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


def together(*parts: Numbers) -> Numbers:
    """All numbers in one record."""
    total = Numbers(metrics={})
    for part in parts:
        total.metrics.update(part.metrics)
        total.absent.update(part.absent)
        total.per_class_accuracy.update(part.per_class_accuracy)
    return total


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
