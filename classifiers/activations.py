"""Smooth activations in place of piecewise linear ones, without kinks in the gradients that guide."""

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

SOFTPLUS_BETA = 3.0
"""Of EluCD's smooth activation (2310.11311)."""

_SMOOTH: Mapping[str, Callable[..., Tensor]] = {
    "relu": lambda relu, x: relu(x),
    "relu6": lambda relu, x: relu(x) - relu(x - 6),
    "hardtanh": lambda relu, x, low=-1.0, high=1.0: low + relu(x - low) - relu(x - high),
    "hardsigmoid": lambda relu, x: (relu(x + 3) - relu(x - 3)) / 6,
    "hardswish": lambda relu, x: x * (relu(x + 3) - relu(x - 3)) / 6,
}
"""Torch's functions by name, in terms of the ReLU or of what stands for it."""


def smoothed(network: Callable[[Tensor], Tensor], *, beta: float = SOFTPLUS_BETA) -> Callable[[Tensor], Tensor]:
    """The network with Softplus(beta) for each ReLU, module or function (EluCD's section 3). The network is kept.

    So are the ReLUs smoothed that ReLU6, Hardtanh, Hardsigmoid and Hardswish consist of. Kinks of LeakyReLU, PReLU,
    clamp and max pooling stay, and all of a scripted or compiled network.
    """

    def evaluated(x: Tensor) -> Tensor:
        with _SmoothActivations(beta):
            return network(x)

    return evaluated


class _SmoothActivations(TorchFunctionMode):
    """Calls of the functions in `_SMOOTH` replaced by their smooth forms, those in place included."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self._beta = beta

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # torch's own types
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        smooth = _SMOOTH.get(name.rstrip("_"))
        if smooth is None:
            return func(*args, **kwargs)
        values = (*args, *kwargs.values())
        in_place = name.endswith("_") or any(value is True for value in values)
        x, *limits = [value for value in values if not isinstance(value, bool)]
        output = smooth(lambda x: F.softplus(x, self._beta), x.clone() if in_place else x, *limits)
        return x.copy_(output) if in_place else output
