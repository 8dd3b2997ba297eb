"""Diagnosis of a classifier: measurements on held-out images at noise levels of its chain."""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.image_set import ImageSet
from guided_diffusion.data.subset import evenly_spaced
from guided_diffusion.diffusion.chain import DiffusionChain, Step, q_sample
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.diffusion.schedules import make_chain
from guided_diffusion.guidance import LogProb, classifier_score

from .calibration import (
    accuracy,
    calibrating_scale,
    calibration_error,
    log_likelihood,
    mean_confidence,
    normalized_entropy,
)
from .model import NoisyClassifier
from .trained_model import Classifier
from .validation import level_indices, open_heldout, read_images, step_at

SLOPE_IMAGES = 8
"""Images for the comparison of gradients with finite differences, at every level."""

HALF_WIDTH = 1e-4
"""Half width of the central difference, along a unit vector: its truncation error, about 1e-8 of the third derivative,
and float64's rounding, about 1e-12, are both far below float32's rounding of the gradient."""

STANDARD_ERRORS = 3.0
"""An accuracy so far above chance is significant: at 11 levels, one uninformed classifier in 70 gets there by luck."""


@dataclass(frozen=True)
class LevelMeasurement:
    """Predictions and gradients for N images at one noise level."""

    t: float
    alpha_bar: float
    log_p: Tensor
    """(N, num_classes) log p(y | x_t), nats, on the CPU."""
    corrections: Tensor
    """(N,) of `correction_ratio`."""
    slope_error: float


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

    def is_informed(self, level: LevelReport) -> bool:
        """True for an accuracy significantly above that of a constant prediction."""
        standard_error = math.sqrt(self.commonest * (1 - self.commonest) / self.num_images)
        return level.accuracy > self.commonest + STANDARD_ERRORS * standard_error


@dataclass(frozen=True)
class Probes:
    """Held-out images at links of a chain; an image has the same noise at every link."""

    images: ImageSet
    chosen: Sequence[int]
    """Indices of the images to use."""
    chain: DiffusionChain | None
    """None: clean images, at t = 0."""
    links: Sequence[int]
    """Indices into the chain."""
    seed: int
    """Seed of the noise."""


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
    return summarize(
        levels, y, classifier=classifier.name, data=data.path, guides=chain is not None,
        trained_on_it=classifier.checkpoint.was_trained_on(data.path),
    )  # fmt: skip


@torch.no_grad()
def measure_levels(network: NoisyClassifier, probes: Probes, *, batch_size: int) -> list[LevelMeasurement]:
    """The classifier at each link, on all probes; each image is read once."""
    found: dict[int, list[tuple[Tensor, Tensor]]] = {k: [] for k in probes.links}
    device, chosen, chain = next(network.parameters()).device, probes.chosen, probes.chain
    with tqdm(total=len(chosen) * len(found), desc="diagnosis", unit="img", leave=False) as bar:
        for first in range(0, len(chosen), batch_size):
            x0, y = (tensor.to(device) for tensor in read_images(probes.images, chosen[first : first + batch_size]))
            eps = SeededNoise(probes.seed, range(first, first + len(x0)))(x0)
            for k in probes.links:
                step = step_at(chain, k, like=x0)
                x_t = q_sample(x0, eps, step)
                gradient = classifier_score(network.log_prob, y, 1.0)(x_t, step)
                found[k].append((network.log_prob(x_t, step.t).cpu(), correction_ratio(gradient, eps, step).cpu()))
                bar.update(len(x0))
    return [
        LevelMeasurement(
            t=0.0 if chain is None else float(chain.t[k]),
            alpha_bar=1.0 if chain is None else float(chain.alpha_bar[k]),
            log_p=torch.cat([log_p for log_p, _ in found[k]]),
            corrections=torch.cat([corrections for _, corrections in found[k]]),
            slope_error=error,
        )
        for k, error in zip(probes.links, measure_slopes(network, probes), strict=True)
    ]


@torch.no_grad()
def measure_slopes(network: NoisyClassifier, probes: Probes) -> list[float]:
    """`slope_error` of the gradient that guidance uses, at each link, on SLOPE_IMAGES of the probes."""
    few = [probes.chosen[i] for i in evenly_spaced(len(probes.chosen), most=SLOPE_IMAGES)]
    x0, y = (tensor.to(next(network.parameters()).device) for tensor in read_images(probes.images, few))
    noise = SeededNoise(probes.seed, range(len(few)))
    eps, direction = noise(x0), noise(x0)
    exact = deepcopy(network).double()
    term = classifier_score(network.log_prob, y, 1.0)
    errors: list[float] = []
    for k in probes.links:
        step = step_at(probes.chain, k, like=x0)
        x_t = q_sample(x0, eps, step)
        errors.append(slope_error(term(x_t, step), exact.log_prob, x_t, step.t, y, direction=direction))
    return errors


def summarize(
    levels: Sequence[LevelMeasurement], y: Tensor, *, classifier: str, data: Path, trained_on_it: bool, guides: bool
) -> Diagnosis:
    """The diagnosis of these measurements. y: (N,) the right classes of the images.

    Raises:
        ValueError: log-probabilities that are not finite.
    """
    for level in levels:
        if not bool(level.log_p.isfinite().all()):
            raise ValueError(
                f"{classifier} gives log-probabilities that are not finite at t = {level.t:g}: its weights are broken, "
                f"take another checkpoint"
            )
    chance = 1 / levels[0].log_p.shape[1]
    reports = [
        LevelReport(
            t=level.t,
            alpha_bar=level.alpha_bar,
            accuracy=accuracy(level.log_p, y),
            log_likelihood=log_likelihood(level.log_p, y),
            confidence=mean_confidence(level.log_p),
            calibration_error=calibration_error(level.log_p, y),
            entropy=normalized_entropy(level.log_p),
            correction=float(level.corrections.mean()),
            slope_error=level.slope_error,
        )
        for level in levels
    ]
    diagnosis = Diagnosis(
        classifier=classifier, data=str(data), num_images=len(y), trained_on_it=trained_on_it, guides=guides,
        chance=chance, commonest=max(chance, float(y.bincount().max()) / len(y)), levels=tuple(reports), scale=None,
    )  # fmt: skip
    informed = [level.log_p for level, report in zip(levels, reports, strict=True) if diagnosis.is_informed(report)]
    if not informed:
        return diagnosis
    return replace(diagnosis, scale=calibrating_scale(torch.cat(informed), y.repeat(len(informed))))


def correction_ratio(gradient: Tensor, eps: Tensor, step: Step) -> Tensor:
    """sqrt(1 - alpha_bar) ||g|| / ||eps|| of each sample: guidance's correction of eps at scale 1, relative to eps.

    gradient: grad_{x_t} log p(y | x_t) (B, C, H, W); eps: the noise in x_t, of that shape. Returns (B,).
    """
    norm_g, norm_eps = (torch.linalg.vector_norm(x.double().flatten(1), dim=1) for x in (gradient, eps))
    amplitude = torch.as_tensor((1 - step.alpha_bar) ** 0.5, device=gradient.device).flatten()
    return amplitude * norm_g / norm_eps


def slope_error(gradient: Tensor, log_prob: LogProb, x_t: Tensor, t: Tensor, y: Tensor, *, direction: Tensor) -> float:
    """Error of the gradient's slopes against finite differences of log p(y | x_t), relative to the larger of the two.

    Each sample's slope along its direction is (log p(x_t + h u) - log p(x_t - h u)) / 2h, u the unit vector; the error
    is a quotient of norms over the batch, 0 where all slopes are exactly 0 and never above 2.

    gradient: (B, C, H, W), as guidance computes it. log_prob: the same classifier in float64. x_t, direction: (B, C, H,
    W); t: (B,); y: (B,) int64.
    """
    u = direction.double() / torch.linalg.vector_norm(direction.double(), dim=(1, 2, 3), keepdim=True)
    ends = [log_prob(x_t.double() + h * u, t.double()) for h in (HALF_WIDTH, -HALF_WIDTH)]
    above, below = (log_p.gather(1, y[:, None]).flatten() for log_p in ends)
    measured = (above - below) / (2 * HALF_WIDTH)
    claimed = (gradient.double() * u).sum(dim=(1, 2, 3))
    size = float(torch.maximum(measured.norm(), claimed.norm()))
    return float((claimed - measured).norm()) / size if size else 0.0
