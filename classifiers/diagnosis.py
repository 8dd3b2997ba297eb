"""Diagnosis of a classifier: the quantities that its measurements on held-out images amount to."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.subset import evenly_spaced
from guided_diffusion.diffusion.schedules import make_chain

from .calibration import (
    accuracy,
    calibrating_scale,
    calibration_error,
    log_likelihood,
    mean_confidence,
    normalized_entropy,
)
from .information import Information, link_weights, spent_information
from .martingale import Bin, martingale_bins
from .probes import LevelMeasurement, Probes, measure_levels
from .trained_model import Classifier
from .validation import level_indices, open_heldout

STANDARD_ERRORS = 3.0
"""An accuracy so far above chance is significant: at 11 levels, one uninformed classifier in 70 gets there by luck."""


@dataclass(frozen=True, kw_only=True)
class LevelReport:
    """Measurements at one noise level."""

    t: float
    """Timestep, on the scale of the network."""
    alpha_bar: float
    """Signal power."""
    accuracy: float
    """Share of the images classified rightly, 0..1."""
    log_likelihood: float
    """Mean log-probability of the right class, nats; -log(num_classes) is chance."""
    confidence: float
    """Mean probability of the likeliest class, 0..1."""
    calibration_error: float
    """Expected calibration error, 0..1."""
    entropy: float
    """Mean entropy of the prediction over log(num_classes), 0..1."""
    correction: float
    """Mean of sqrt(1 - alpha_bar) ||grad log p(y | x_t)|| / ||eps||: guidance at scale 1 relative to the noise."""
    slope_error: float
    """Relative error of that gradient against finite differences in float64."""
    nats: float | None = None
    """Nats of guidance at scale 1 about this level, its share of `Information.spent`; null for a judge."""


@dataclass(frozen=True, kw_only=True)
class PairReport:
    """Measurements between neighbouring noise levels."""

    t: float
    """Timestep of the noisier level."""
    s: float
    """Timestep of the less noisy level."""
    spent: float
    """Nats of guidance at scale 1 between the two."""
    gained: float
    """Rise of the mean log p(y) from t to s, nats; an exact classifier gains what it spends."""
    moved: float
    """Probability that moves between the bins, a mean over the images, 0..1; 0 for an exact classifier."""
    z: float
    """Largest |p_s - p_t| of a bin in its standard errors."""
    bins: tuple[Bin, ...]
    """Of the martingale test."""

    @property
    def worst(self) -> Bin:
        """The bin of the largest |z|."""
        return max(self.bins, key=lambda one: abs(one.z))


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """All measurements of a classifier."""

    classifier: str
    data: str
    num_images: int
    trained_on_it: bool
    """True if `data` is the folder that the classifier was trained on."""
    guides: bool
    """True for a classifier of noisy images, false for a judge of clean ones."""
    chance: float
    """1 / num_classes."""
    commonest: float
    """Share of the commonest class among the images: the accuracy of a constant prediction."""
    levels: tuple[LevelReport, ...]
    """In the order of growing noise."""
    scale: float | None
    """s* of `calibrating_scale`, pooled over all levels above chance; null without such a level."""
    information: Information | None = None
    """Null for a judge, and at a single noise level."""
    pairs: tuple[PairReport, ...] = ()
    """Of neighbouring noise levels, in the order of growing noise."""

    def is_informed(self, level: LevelReport) -> bool:
        """True for an accuracy significantly above that of a constant prediction."""
        standard_error = math.sqrt(self.commonest * (1 - self.commonest) / self.num_images)
        return level.accuracy > self.commonest + STANDARD_ERRORS * standard_error


def diagnosed(
    classifier: Classifier, data: DataConfig, *, max_images: int, num_levels: int, batch_size: int, seed: int
) -> Diagnosis:
    """The diagnosis on at most `max_images` of the data, at noise levels evenly spread over the chain.

    Raises:
        ValueError: images of one class only, or a classifier of one.
    """
    if len(classifier.class_names) == 1:
        raise ValueError(
            f'{classifier.name} knows one class only, "{classifier.class_names[0]}": it is always right and its '
            f"gradient is 0; train it on images of several classes"
        )
    images = open_heldout(data, classifier.config)
    chosen = evenly_spaced(len(images), most=max_images)
    y = images.labels[chosen]
    if len(y.unique()) == 1:
        raise ValueError(
            f"{data.path} holds images of one class only, where a constant answer is right; give images of "
            f"several classes"
        )
    chain = None if classifier.config.chain is None else make_chain(classifier.config.chain)
    links = level_indices(chain, count=num_levels)
    levels = measure_levels(classifier.network, Probes(images, chosen, chain, links, seed), batch_size=batch_size)
    diagnosis = summarize(
        levels, y, classifier=classifier.name, data=data.path, guides=chain is not None,
        trained_on_it=classifier.checkpoint.was_trained_on(data.path),
    )  # fmt: skip
    if chain is None or len(links) == 1:
        return diagnosis
    return between_levels(diagnosis, levels, y, link_weights(chain, links))


def summarize(
    levels: Sequence[LevelMeasurement], y: Tensor, *, classifier: str, data: Path, trained_on_it: bool, guides: bool
) -> Diagnosis:
    """The diagnosis of these measurements. y: (N,) the right classes of the images.

    Raises:
        ValueError: log-probabilities that are not finite.
    """
    for level in levels:
        if not bool(level.predictions.log_p.isfinite().all()):
            raise ValueError(
                f"{classifier} gives log-probabilities that are not finite at t = {level.t:g}: its weights are broken, "
                f"take another checkpoint"
            )
    chance = 1 / levels[0].predictions.log_p.shape[1]
    reports = [
        LevelReport(
            t=level.t,
            alpha_bar=level.alpha_bar,
            accuracy=accuracy(level.predictions.log_p, y),
            log_likelihood=log_likelihood(level.predictions.log_p, y),
            confidence=mean_confidence(level.predictions.log_p),
            calibration_error=calibration_error(level.predictions.log_p, y),
            entropy=normalized_entropy(level.predictions.log_p),
            correction=float(level.predictions.corrections.mean()),
            slope_error=level.slope_error,
        )
        for level in levels
    ]
    diagnosis = Diagnosis(
        classifier=classifier, data=str(data), num_images=len(y), trained_on_it=trained_on_it, guides=guides,
        chance=chance, commonest=max(chance, float(y.bincount().max()) / len(y)), levels=tuple(reports), scale=None,
    )  # fmt: skip
    informed = [
        level.predictions.log_p for level, report in zip(levels, reports, strict=True) if diagnosis.is_informed(report)
    ]
    if not informed:
        return diagnosis
    return replace(diagnosis, scale=calibrating_scale(torch.cat(informed), y.repeat(len(informed))))


def between_levels(diagnosis: Diagnosis, measured: Sequence[LevelMeasurement], y: Tensor, weights: Tensor) -> Diagnosis:
    """The diagnosis with what relates its levels: nats spent and gained, and the martingale test.

    measured: two levels or more. weights: `link_weights` of them.
    """
    squared, levels = torch.stack([level.predictions.squared_gradients for level in measured], dim=1), diagnosis.levels
    bins = [
        martingale_bins(one.predictions.path_log_p, noisier.predictions.path_log_p)
        for one, noisier in pairwise(measured)
    ]
    spent = (weights @ squared.mean(dim=0)).tolist()[1:]
    nats = (weights.sum(dim=0) * squared.mean(dim=0)).tolist()
    return replace(
        diagnosis,
        levels=tuple(replace(level, nats=share) for level, share in zip(levels, nats, strict=True)),
        information=spent_information(squared, weights, log_likelihood=levels[0].log_likelihood, y=y),
        pairs=tuple(pair_report(*pair) for pair in zip(levels, levels[1:], bins, spent, strict=False)),
    )


def pair_report(less_noisy: LevelReport, noisier: LevelReport, bins: tuple[Bin, ...], spent: float) -> PairReport:
    """The report of two neighbouring levels. bins: of their martingale test; spent: nats, between the two."""
    num_images = sum(one.count * one.p_t for one in bins)  # an image's probabilities sum to 1
    return PairReport(
        t=noisier.t, s=less_noisy.t, spent=spent, gained=less_noisy.log_likelihood - noisier.log_likelihood,
        moved=sum(one.count * abs(one.p_s - one.p_t) for one in bins) / 2 / num_images,
        z=max(abs(one.z) for one in bins), bins=bins,
    )  # fmt: skip
