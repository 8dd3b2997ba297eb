"""Measurements of a classifier's predictions and gradients on held-out images, noised along its chain."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from guided_diffusion.data.image_set import ImageSet
from guided_diffusion.data.subset import evenly_spaced
from guided_diffusion.diffusion.chain import DiffusionChain, Step, diffused, q_sample
from guided_diffusion.diffusion.noise import Noise, SeededNoise
from guided_diffusion.guidance import LogProb, classifier_score
from guided_diffusion.guidance.score import log_prob_and_gradient

from .model import NoisyClassifier
from .validation import read_images, step_at

SLOPE_IMAGES = 8
"""Images for the comparison of gradients with finite differences, at every level."""

HALF_WIDTH = 1e-4
"""Half width of the central difference, along a unit vector: its truncation error, about 1e-8 of the third derivative,
and float64's rounding, about 1e-12, are both far below float32's rounding of the gradient."""


class NoisedPredictions(NamedTuple):
    """Predictions and gradients for N images at one noise level, on the CPU."""

    log_p: Tensor
    """(N, num_classes) log p(y | x_t), nats."""
    path_log_p: Tensor
    """The same on the noising path of each image through all levels."""
    corrections: Tensor
    """(N,) of `correction_ratio`."""
    squared_gradients: Tensor
    """(N,) float64 |grad log p(y | x_t)|^2."""


@dataclass(frozen=True)
class LevelMeasurement:
    """All measurements at one noise level."""

    t: float
    alpha_bar: float
    predictions: NoisedPredictions
    slope_error: float


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


@torch.no_grad()
def measure_levels(network: NoisyClassifier, probes: Probes, *, batch_size: int) -> list[LevelMeasurement]:
    """The classifier at each link, on all probes; each image is read once."""
    found: dict[int, list[NoisedPredictions]] = {k: [] for k in probes.links}
    device, chosen, chain = next(network.parameters()).device, probes.chosen, probes.chain
    with tqdm(total=len(chosen) * len(found), desc="diagnosis", unit="img", leave=False) as bar:
        for first in range(0, len(chosen), batch_size):
            x0, y = (tensor.to(device) for tensor in read_images(probes.images, chosen[first : first + batch_size]))
            noise = SeededNoise(probes.seed, range(first, first + len(x0)))
            at_links = noised_predictions(network.log_prob, chain, probes.links, x0, y, noise)
            for k, predictions in zip(probes.links, at_links, strict=True):
                found[k].append(predictions)
                bar.update(len(x0))
    return [
        LevelMeasurement(
            t=0.0 if chain is None else float(chain.t[k]),
            alpha_bar=1.0 if chain is None else float(chain.alpha_bar[k]),
            predictions=NoisedPredictions(*map(torch.cat, zip(*found[k], strict=True))),
            slope_error=error,
        )
        for k, error in zip(probes.links, measure_slopes(network, probes), strict=True)
    ]


@torch.no_grad()
def noised_predictions(
    log_prob: LogProb, chain: DiffusionChain | None, links: Sequence[int], x0: Tensor, y: Tensor, noise: Noise
) -> Iterator[NoisedPredictions]:
    """The classifier on a batch x0 (B, C, H, W) of classes y (B,) at each of the links, in ascending order; on the CPU.

    Levels share an image's noise. Its path begins at the first link's x_t and goes on by q(x_t | x_s), so that each
    pair (x_s, x_t) has the joint distribution of the forward process.
    """
    eps = noise(x0)
    path, alpha_bar = x0, 1.0
    for k in links:
        step = step_at(chain, k, like=x0)
        x_t = q_sample(x0, eps, step)
        log_p, gradient = log_prob_and_gradient(lambda x, t=step.t: log_prob(x, t), x_t, y)
        if k == links[0]:
            path, path_log_p = x_t, log_p
        else:
            path = diffused(path, noise(path), alpha_bar=step.alpha_bar / alpha_bar)
            path_log_p = log_prob(path, step.t)
        alpha_bar = step.alpha_bar
        squared = gradient.double().flatten(1).square().sum(dim=1)
        yield NoisedPredictions(
            log_p.cpu(), path_log_p.cpu(), correction_ratio(gradient, eps, step).cpu(), squared.cpu()
        )


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
