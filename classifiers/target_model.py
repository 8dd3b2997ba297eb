"""Networks of targets other than classes, a real value or several attributes, and the guides that they make."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from guided_diffusion.diffusion.schedules import ChainConfig

from .model import ClassifierConfig

TargetName = Literal["regression", "attributes"]

LEAST_VAR = 1e-4
"""Least variance that a regression predicts, of values of variance 1: a hundredth of their standard deviation."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Columns of a table, with numbers of each; to the network a value is (value - mean) / std."""

    names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    lowest: tuple[float, ...]
    highest: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class TargetModelConfig:
    """A network of a target apart from its weights: the "model" of its checkpoint's config.json."""

    target: TargetName
    """The target, which is the checkpoint's kind as well."""
    network: ClassifierConfig
    """The encoder, its pooling, and in place of classes the outputs: log odds of attributes, `mean_and_log_var`."""
    chain: ChainConfig | None
    """The chain of the diffusion model whose noise it was trained on; null: clean images only."""
    columns: Columns
    """The columns of the table."""


def mean_and_log_var(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance (B,) of a standardised value by outputs (B, 2), its mean and log(variance - LEAST_VAR)."""
    mean, raw = outputs.unbind(dim=1)
    return mean, torch.logaddexp(raw, torch.full_like(raw, math.log(LEAST_VAR)))
