"""Objectives and held-out measurements of targets other than classes, and the table of their kinds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from guided_diffusion.data.batches import Batch
from guided_diffusion.data.columns import column_values
from guided_diffusion.data.image_set import ImageSet
from guided_diffusion.diffusion.chain import TrainingChain
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.guidance.densities import bernoulli_log_likelihood, gaussian_log_likelihood
from guided_diffusion.training.objective import Losses

from .classifier_objective import noised
from .target_model import Column, TargetName, mean_and_log_var


@dataclass(frozen=True)
class Target:
    """A kind of target: outputs (B, O) of a network, values (B, K) of the table's K columns."""

    num_outputs: Callable[[int], int]
    """O of K."""
    columns: Callable[[Tensor, Sequence[str], Path], tuple[Column, ...]]
    """The columns of values (N, K), their names and their table; columns that teach nothing are a ValueError."""
    log_likelihood: Callable[[Tensor, Tensor], Tensor]
    """(outputs, values) -> (B,) nats."""
    measure: Callable[[Tensor, Tensor], Mapping[str, Tensor]]
    """(outputs, values) -> further numbers () of the batch, by name."""


@dataclass(frozen=True)
class TargetObjective:
    """Negative log-likelihood of the values given q(x_t | x_0) at a uniformly drawn index of the chain, nats."""

    chain: TrainingChain | None
    """None: clean images, at t = 0."""
    target: Target

    def __call__(self, network: nn.Module, batch: Batch, noise: SeededNoise) -> Losses:
        """The mean loss, and the target's own numbers of the batch."""
        outputs = network(*noised(self.chain, batch.x0, noise)).float()
        loss = -self.target.log_likelihood(outputs, batch.y).mean()
        return Losses(total=loss, logged=self.target.measure(outputs, batch.y))


def with_values(images: ImageSet, table: Path, columns: Sequence[Column]) -> ImageSet:
    """The images, labelled with their standardised values in the table's columns."""
    values = column_values(images, table, [column.name for column in columns])
    mean, std = (values.new_tensor([getattr(column, field) for column in columns]) for field in ("mean", "std"))
    return replace(images, labels=((values - mean) / std).float())


def real_column(values: Tensor, names: Sequence[str], table: Path) -> tuple[Column, ...]:
    """The one column of a regression, with mean and standard deviation of its values."""
    low, high = values.min().item(), values.max().item()
    if low == high:
        raise ValueError(f'the column "{names[0]}" of {table} is {low:g} for every image; there is nothing to learn')
    mean, std = values.mean().item(), values.std(correction=0).item()
    return (Column(name=names[0], mean=mean, std=std, lowest=low, highest=high),)


def binary_columns(values: Tensor, names: Sequence[str], table: Path) -> tuple[Column, ...]:
    """The columns of attributes, each with zeros and ones."""
    for name, column in zip(names, values.unbind(dim=1), strict=True):
        found = column.unique().tolist()
        if found != [0, 1]:
            shown = f"{found[0]:g} for every image" if len(found) == 1 else ", ".join(f"{x:g}" for x in found[:5])
            raise ValueError(
                f'attributes are 0 for no and 1 for yes, with images of both; the column "{name}" of {table} is {shown}'
            )
    return tuple(Column(name=name) for name in names)


def regression_log_likelihood(outputs: Tensor, values: Tensor) -> Tensor:
    """log N(value; mean, var) (B,), nats, of a standardised value: -1.42 where only its mean and variance are known."""
    return gaussian_log_likelihood(*mean_and_log_var(outputs), values[:, 0])


def regression_numbers(outputs: Tensor, values: Tensor) -> dict[str, Tensor]:
    """The mean squared error over the variance of all values: 1 where only their mean is known."""
    return {"squared_error": ((mean_and_log_var(outputs)[0] - values[:, 0]) ** 2).mean()}


def attributes_log_likelihood(outputs: Tensor, values: Tensor) -> Tensor:
    """log prod_i p(a_i) (B,), nats."""
    return bernoulli_log_likelihood(outputs, values).sum(dim=1)


def attributes_numbers(outputs: Tensor, values: Tensor) -> dict[str, Tensor]:
    """The share of attributes that are predicted rightly."""
    return {"accuracy": ((outputs > 0) == (values > 0)).float().mean()}


TARGETS: Mapping[TargetName, Target] = {
    "regression": Target(lambda _: 2, real_column, regression_log_likelihood, regression_numbers),
    "attributes": Target(lambda count: count, binary_columns, attributes_log_likelihood, attributes_numbers),
}
