"""The objective of targets other than classes, their values in tables, and the table of their kinds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from guided_diffusion.data.batches import Batch
from guided_diffusion.data.columns import column_values
from guided_diffusion.data.image_set import ImageSet
from guided_diffusion.diffusion.chain import TrainingChain
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.guidance.densities import bernoulli_log_likelihood, gaussian_log_likelihood
from guided_diffusion.training.objective import Losses

from .classifier_objective import noised
from .target_model import Columns, TargetName, mean_and_log_var


@dataclass(frozen=True)
class Target:
    """A kind of target, as functions of a network's outputs (B, O) and standardised values (B, K) of K columns."""

    num_outputs: Callable[[int], int]
    """O of K."""
    columns: Callable[[Tensor, Sequence[str]], Columns]
    """The columns of values (N, K) as they are in the table, and their names; a ValueError refuses unfit ones."""
    log_likelihood: Callable[[Tensor, Tensor], Tensor]
    """log p(values) (B,), nats."""
    numbers: Callable[[Tensor, Tensor, Columns], Mapping[str, Tensor]]
    """Further numbers () by name."""


@dataclass(frozen=True)
class TargetObjective:
    """Negative log-likelihood of the values given q(x_t | x_0) at a uniformly drawn index of the chain, nats."""

    chain: TrainingChain | None
    """None: clean images, at t = 0."""
    target: Target
    columns: Columns

    def __call__(self, network: nn.Module, batch: Batch, noise: SeededNoise) -> Losses:
        """The mean loss, and the target's own numbers of the batch."""
        outputs = network(*noised(self.chain, batch.x0, noise)).float()
        loss = -self.target.log_likelihood(outputs, batch.y).mean()
        return Losses(total=loss, logged=self.target.numbers(outputs.detach(), batch.y, self.columns))


def with_values(images: ImageSet, table: Path, columns: Columns) -> ImageSet:
    """The images, labelled with their standardised values in the table."""
    values = column_values(images, table, columns.names)
    mean, std = values.new_tensor((columns.mean, columns.std))
    return replace(images, labels=((values - mean) / std).float())


def _real_column(values: Tensor, names: Sequence[str]) -> Columns:
    low, high = values.min().item(), values.max().item()
    if low == high:
        raise ValueError(f'the column "{names[0]}" of the table is {low:g} for every image; there is nothing to learn')
    mean, std = values.mean().item(), values.std(correction=0).item()
    return Columns(names=(*names,), mean=(mean,), std=(std,), lowest=(low,), highest=(high,))


def _binary_columns(values: Tensor, names: Sequence[str]) -> Columns:
    for name, found in zip(names, (column.unique().tolist() for column in values.T), strict=True):
        if found != [0, 1]:
            shown = ", ".join(f"{value:g}" for value in found[:5]) + (", .." if len(found) > 5 else "")
            raise ValueError(
                f'attributes are 0 for no and 1 for yes, and both are needed; "{name}" of the table holds {shown}'
            )
    zeros, ones = (0.0,) * len(names), (1.0,) * len(names)
    return Columns(names=(*names,), mean=zeros, std=ones, lowest=zeros, highest=ones)


def _gaussian_numbers(outputs: Tensor, values: Tensor, columns: Columns) -> dict[str, Tensor]:
    """Root mean square error in the unit of the table, and the correlation of predicted and true values, 0 of one."""
    mean, value = mean_and_log_var(outputs)[0], values[:, 0]
    centred, other = mean - mean.mean(), value - value.mean()
    correlation = (centred * other).sum() / (centred.norm() * other.norm()).clamp(min=1e-12)
    return {"rmse": columns.std[0] * (mean - value).square().mean().sqrt(), "correlation": correlation}


def _binary_numbers(outputs: Tensor, values: Tensor, columns: Columns) -> dict[str, Tensor]:
    """The share of predictions that are right, of each attribute."""
    right = ((outputs > 0) == (values > 0.5)).float().mean(dim=0)
    return {f"accuracy_{name}": share for name, share in zip(columns.names, right, strict=True)}


TARGETS: Mapping[TargetName, Target] = {
    "regression": Target(
        num_outputs=lambda _: 2,
        columns=_real_column,
        log_likelihood=lambda outputs, values: gaussian_log_likelihood(*mean_and_log_var(outputs), values[:, 0]),
        numbers=_gaussian_numbers,
    ),
    "attributes": Target(
        num_outputs=lambda count: count,
        columns=_binary_columns,
        log_likelihood=lambda outputs, values: bernoulli_log_likelihood(outputs, values).sum(dim=1),
        numbers=_binary_numbers,
    ),
}
