"""Held-out images, and what a classifier says of them at the noise levels of its chain."""

from collections.abc import Sequence

import torch
from torch import Tensor

from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.image_set import ImageSet, open_training_set
from guided_diffusion.data.subset import evenly_spaced
from guided_diffusion.diffusion.chain import DiffusionChain, Step, q_sample
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.guidance import LogProb

from .trained_model import ClassifierModelConfig


def open_heldout(data: DataConfig, model: ClassifierModelConfig) -> ImageSet:
    """The images, their labels in the classifier's numbering.

    Raises:
        ValueError: a class that the classifier does not know, or images of another channel count.
    """
    folder = open_training_set(data, image_size=model.network.image_size, class_names=model.class_names)
    if folder.channels != model.network.in_channels:
        raise ValueError(
            f"{data.path} holds images of {folder.channels} channels, the classifier takes "
            f"{model.network.in_channels}; --data.mode converts"
        )
    return folder


def read_images(folder: ImageSet, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) in [-1, 1] and labels (N,) of a folder's entries, by their indices."""
    return torch.stack([folder[i][0] for i in indices]), folder.labels[list(indices)]


def level_indices(chain: DiffusionChain | None, *, count: int) -> list[int]:
    """`count` indices spread evenly over the chain, both ends included; just [0] without a chain."""
    return [0] if chain is None else evenly_spaced(len(chain), most=count)


def step_at(chain: DiffusionChain | None, k: int, *, like: Tensor) -> Step:
    """The chain's link k; without a chain, the one that leaves images as they are, at t = 0."""
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
    """log p(y | x_t) (N, num_classes) at index k of the chain, on the CPU.

    images: (N, C, H, W) in [-1, 1]. Image number i has the same noise, of (seed, i), at every k.
    """
    found: list[Tensor] = []
    for first, x0 in zip(range(0, len(images), batch_size), images.split(batch_size), strict=True):
        x0 = x0.to(device)
        step = step_at(chain, k, like=x0)
        x_t = q_sample(x0, SeededNoise(seed, range(first, first + len(x0)))(x0), step)
        found.append(log_prob(x_t, step.t).cpu())
    return torch.cat(found)
