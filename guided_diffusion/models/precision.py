"""Precision of networks' arithmetic, and the count of their evaluations."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, TypeVar, cast, get_args

import torch
from torch import Tensor, nn

Precision = Literal["float32", "bfloat16", "float16"]

NETWORK = "network"
"""Counts evaluations of denoising networks."""
CLASSIFIER = "classifier"
"""Counts evaluations of classifiers."""

M = TypeVar("M")


class EvaluatedNetwork(nn.Module):
    """A network that computes in a given precision and counts the images it evaluates.

    Its output has its input's dtype. Parameters stay in float32, and autocast keeps softmaxes and norms in it too.
    """

    def __init__(
        self, network: Callable[..., Tensor], *, precision: Precision, counter: Counter[str], counted_as: str
    ) -> None:
        """counter: of images by kind of network; those of this one are added up under `counted_as`, from 0."""
        super().__init__()
        self.network, self._counter, self._counted_as = network, counter, counted_as
        self._dtype: torch.dtype = getattr(torch, precision)
        counter[counted_as] += 0

    def forward(self, x_t: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # whatever else the network takes
        self._counter[self._counted_as] += len(x_t)
        with torch.autocast(x_t.device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            return self.network(x_t, *args, **kwargs).to(x_t.dtype)


def in_precision(
    model: M, precision: Precision, *, counter: Counter[str] | None = None, counted_as: str = NETWORK
) -> M:
    """A loaded model or classifier whose `network` computes in `precision` and, given a counter, is counted."""
    if precision == "float32" and counter is None:
        return model
    counter = Counter() if counter is None else counter
    loaded = cast(Any, model)  # any dataclass with a network
    network = EvaluatedNetwork(loaded.network, precision=precision, counter=counter, counted_as=counted_as)
    return cast(M, replace(loaded, network=network))


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuse a precision that a device does not have.

    Raises:
        ValueError: another name, or float16 without a GPU.
    """
    if precision not in get_args(Precision):
        raise ValueError(f'there is no precision "{precision}"; there are {", ".join(get_args(Precision))}')
    if precision == "float16" and device.type == "cpu":
        raise ValueError("precision float16 needs a GPU; take bfloat16 or float32 here")
