"""Validation: predictions of a classifier on held-out images at noise levels of its chain."""

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.decoder import x0_of
from guided_diffusion.data.fingerprint import fingerprint
from guided_diffusion.data.image_set import ImageSet, open_training_set
from guided_diffusion.data.subset import evenly_spaced
from guided_diffusion.diffusion.chain import DiffusionChain, Step, q_sample
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.diffusion.schedules import make_chain
from guided_diffusion.guidance import LogProb
from guided_diffusion.training.objective import Observe

from .calibration import accuracy, log_likelihood
from .model import log_probabilities
from .target_model import TargetModelConfig
from .target_objective import TARGETS, with_values
from .trained_model import ClassifierModelConfig

_logger = logging.getLogger(__name__)

HELDOUT_LIKELIHOOD = "heldout_log_likelihood"
"""The metric of the best checkpoint: it falls where a classifier overfits while its accuracy still rises."""


def open_heldout(data: DataConfig, model: ClassifierModelConfig | TargetModelConfig) -> ImageSet:
    """The images, labelled with the classifier's class numbers, or with the target's standardised values.

    Raises:
        ValueError: a class that the classifier does not know, images of another channel count, or a table that lacks
            their values.
    """
    is_target = isinstance(model, TargetModelConfig)
    names = None if is_target else model.class_names
    dataset = open_training_set(data, image_size=model.network.image_size, class_names=names, is_labelled=not is_target)
    if dataset.channels != model.network.in_channels:
        raise ValueError(
            f"{data.path} holds images of {dataset.channels} channels, the classifier takes "
            f"{model.network.in_channels}; --data.mode converts"
        )
    return with_values(dataset, Path(data.labels), model.columns) if is_target else dataset


def read_images(dataset: ImageSet, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) in [-1, 1] and their labels, by their indices."""
    return torch.stack([x0_of(dataset.pixels(i)) for i in indices]), dataset.labels[list(indices)]


def level_indices(chain: DiffusionChain | None, *, count: int) -> list[int]:
    """`count` indices spread evenly over the chain, both ends included; [0] without a chain."""
    return [0] if chain is None else evenly_spaced(len(chain), most=count)


def step_at(chain: DiffusionChain | None, k: int, *, like: Tensor) -> Step:
    """The chain's link k; without a chain, a link that leaves images clean, at t = 0."""
    if chain is not None:
        return chain.at(k, like=like)
    t = torch.zeros(len(like), dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)
    return Step(t, alpha_bar=1.0, alpha_bar_prev=1.0, log_var_min=float("-inf"), log_var_max=float("-inf"))


@torch.no_grad()
def predictions(
    log_prob: LogProb,
    chain: DiffusionChain | None,
    images: Tensor,
    *,
    k: int,
    seed: int,
    device: torch.device,
    batch_size: int = 256,
) -> Tensor:
    """log p(y | x_t) (N, num_classes), or other outputs, at index k of the chain, on the CPU.

    images: (N, C, H, W) in [-1, 1]. Image number i has the same noise, of (seed, i), at every k.
    """
    found: list[Tensor] = []
    for first, x0 in zip(range(0, len(images), batch_size), images.split(batch_size), strict=True):
        x0 = x0.to(device)
        step = step_at(chain, k, like=x0)
        x_t = q_sample(x0, SeededNoise(seed, range(first, first + len(x0)))(x0), step)
        found.append(log_prob(x_t, step.t).cpu())
    return torch.cat(found)


def refuse_one_class(data: ImageSet) -> None:
    """Refuse a training set on which every classifier is right.

    Raises:
        ValueError: fewer than two classes.
    """
    if len(data.class_names) < 2:
        raise ValueError(
            f"all images of {data.path} are of one class, '{''.join(data.class_names)}', and a classifier of one class "
            f"learns nothing and guides nowhere; give images of two or more classes (--data.labels finds them)"
        )


def _warn_of_seen_images(heldout: ImageSet, trained_on: ImageSet) -> None:
    """Doubt held-out images that the training sees: the same files, or copies with their names, sizes and labels."""
    seen = set(map(os.path.realpath, trained_on.paths))
    same = sum(os.path.realpath(path) in seen for path in heldout.paths)
    if same or fingerprint(heldout) == fingerprint(trained_on):
        _logger.warning(
            "%s of the %d held-out images of %s are among the training images of %s: their accuracy says nothing of "
            "new images; give --heldout images that the training does not see",
            same or "all", len(heldout), heldout.path, trained_on.path,
        )  # fmt: skip


def _class_numbers(outputs: Tensor, labels: Tensor) -> tuple[float, Mapping[str, float]]:
    log_p = log_probabilities(outputs)
    return log_likelihood(log_p, labels), {"accuracy": accuracy(log_p, labels)}


def _target_numbers(model: TargetModelConfig, outputs: Tensor, values: Tensor) -> tuple[float, Mapping[str, float]]:
    target = TARGETS[model.target]
    likelihood = float(target.log_likelihood(outputs.double(), values.double()).mean())
    numbers = target.numbers(outputs.double(), values.double(), model.columns)
    return likelihood, {"nll": -likelihood} | {name: float(number) for name, number in numbers.items()}


def open_validation(
    data: DataConfig,
    model: ClassifierModelConfig | TargetModelConfig,
    *,
    max_images: int,
    trained_on: ImageSet | None = None,
) -> Observe:
    """Observation of held-out images: numbers at five noise levels, of classes the accuracy, and the log-likelihood
    averaged over the levels.

    trained_on: the training images, which are not to be among them.
    """
    dataset = open_heldout(data, model)
    if trained_on is not None:
        _warn_of_seen_images(dataset, trained_on)
    images, labels = read_images(dataset, evenly_spaced(len(dataset), most=max_images))
    chain = None if model.chain is None else make_chain(model.chain)
    measure = partial(_target_numbers, model) if isinstance(model, TargetModelConfig) else _class_numbers

    def observe(network: nn.Module, _iteration: int) -> Mapping[str, float]:
        device, metrics, likelihoods = next(network.parameters()).device, dict[str, float](), list[float]()
        for k in level_indices(chain, count=5):
            outputs = predictions(network, chain, images, k=k, seed=0, device=device)
            likelihood, numbers = measure(outputs, labels)
            level = 0.0 if chain is None else float(chain.t[k])
            metrics |= {f"heldout_{name}_t{level:g}": number for name, number in numbers.items()}
            likelihoods.append(likelihood)
        return metrics | {HELDOUT_LIKELIHOOD: sum(likelihoods) / len(likelihoods)}

    return observe
