"""Networks of targets other than classes: a real value or several attributes, and their guides."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from guided_diffusion.checkpoint import Checkpoint
from guided_diffusion.diffusion.model import load_network
from guided_diffusion.diffusion.schedules import ChainConfig
from guided_diffusion.files import file_sha256

from .model import ClassifierConfig, NoisyClassifier

_logger = logging.getLogger(__name__)

TargetName = Literal["regression", "attributes"]

LEAST_VAR = 1e-4
"""Least variance that a regression predicts, of values of variance 1: a hundredth of their standard deviation."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the table that a network learned; its values are (value - mean) / std to the network."""

    name: str
    mean: float = 0.0
    std: float = 1.0
    lowest: float = 0.0
    highest: float = 1.0


@dataclass(frozen=True, kw_only=True)
class TargetModelConfig:
    """A network of targets apart from its weights: the "model" of its checkpoint's config.json."""

    network: ClassifierConfig
    """The encoder, its pooling, and as many classes as the target has outputs."""
    chain: ChainConfig | None
    """The chain of the diffusion model whose noise it was trained on; null: clean images only."""
    columns: tuple[Column, ...]
    """The columns of the table, in the order of the outputs."""


@dataclass(frozen=True)
class TargetModel:
    """A network of targets ready for use: in evaluation mode, its parameters frozen."""

    config: TargetModelConfig
    network: NoisyClassifier
    """(x_t, t) to outputs: log odds (B, A) of attributes, `mean_and_log_var` of a regression."""
    checkpoint: Checkpoint
    weights: str
    """Name of these weights in the checkpoint."""

    @property
    def name(self) -> str:
        """Run and checkpoint, for messages and manifests."""
        return self.checkpoint.name

    @cached_property
    def sha256(self) -> str:
        """Of the file of its weights."""
        return file_sha256(self.checkpoint.weights_file(self.weights))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images it was trained on."""
        network = self.config.network
        return network.in_channels, network.image_size, network.image_size

    def log_odds(self, x_t: Tensor, t: Tensor) -> Tensor:
        """log p / (1 - p) of each attribute, (B, A)."""
        return self.network(x_t, t)

    def gaussian(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (B,) of a regression's value, in the unit of the table."""
        (column,) = self.config.columns
        mean, log_var = mean_and_log_var(self.network(x_t, t))
        return column.mean + column.std * mean, log_var + 2 * math.log(column.std)


def mean_and_log_var(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance (B,) of a standardised value, of a network's outputs (B, 2); exp(output) + LEAST_VAR."""
    mean, raw = outputs.unbind(dim=1)
    return mean, torch.logaddexp(raw, torch.full_like(raw, math.log(LEAST_VAR)))


def load_target_model(
    path: Path, kind: TargetName, *, weights: str | None = None, device: torch.device | str = "cpu"
) -> TargetModel:
    """The network of a kind of target of a checkpoint or run directory.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: a checkpoint of another kind, or weights that are missing or do not fit.
    """
    return TargetModel(*load_network(path, kind, TargetModelConfig, NoisyClassifier, weights=weights, device=device))


def wanted_attributes(model: TargetModel, wanted: Mapping[str, bool]) -> dict[int, bool]:
    """The wanted attributes by their numbers.

    Raises:
        ValueError: none, an unknown one, or a value other than true and false.
    """
    names = [column.name for column in model.config.columns]
    wrong = [f"{name}: {value}" for name, value in wanted.items() if name not in names or value not in (True, False)]
    if wrong or not wanted:
        found = f'"{wrong[0]}"' if wrong else "none"
        raise ValueError(f"{model.name} knows {', '.join(names)}; give some of them as true or false, got {found}")
    return {names.index(name): bool(value) for name, value in wanted.items()}


def warn_beyond_training(model: TargetModel, value: float) -> None:
    """Doubt a value outside the range that a regression was trained on, or refuse one that is not finite."""
    (column,) = model.config.columns
    if not math.isfinite(value):
        raise ValueError(f'the target of "{column.name}" must be a finite number, got {value}')
    if not column.lowest <= value <= column.highest:
        _logger.warning(
            'the target %g of "%s" lies outside %g to %g, the range that %s was trained on',
            value, column.name, column.lowest, column.highest, model.name,
        )  # fmt: skip
