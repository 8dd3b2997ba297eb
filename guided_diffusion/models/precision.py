"""Precision of networks' arithmetic, and the count of their evaluations."""

from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeVar, cast, get_args

import torch
from torch import Tensor, nn

Precision = Literal["float32", "bfloat16", "float16"]

NETWORK = "network"
"""Counts evaluations of denoising networks."""
CLASSIFIER = "classifier"
"""Counts evaluations of classifiers."""

Prepare = Callable[[nn.Module, Callable[[], Tensor]], bool]
"""Compile a network, given a call of it for trial; True if it is compiled."""

M = TypeVar("M")


class InPrecision(nn.Module):
    """A network that computes in a given precision. Its output has its input's dtype.

    In a half precision it is a copy whose convolutions and linear layers have rounded weights, as autocast would round
    them at every call. Other parameters stay in float32, and autocast keeps softmaxes and norms in it too.
    """

    def __init__(self, network: Callable[..., Tensor], precision: Precision) -> None:
        super().__init__()
        self.dtype: torch.dtype = getattr(torch, precision)
        self.network = network
        if self.dtype != torch.float32 and isinstance(network, nn.Module):
            self.network = deepcopy(network)
            for module in self.network.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    module.to(self.dtype)

    def forward(self, x_t: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # whatever else the network takes
        with torch.autocast(x_t.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            return self.network(x_t, *args, **kwargs).to(x_t.dtype)


class EvaluatedNetwork(nn.Module):
    """A network that computes in a given precision, counts the images it evaluates, and may be compiled."""

    def __init__(
        self, network: Callable[..., Tensor], *, precision: Precision, counter: Counter[str], counted_as: str
    ) -> None:
        """counter: of images by kind of network; those of this one are added up under `counted_as`, from 0."""
        super().__init__()
        self.network, self._counter, self._counted_as = InPrecision(network, precision), counter, counted_as
        self._prepare: Prepare | None = None
        self._compiled_size, self._compiled_with_gradients = 0, cast(bool | None, None)
        counter[counted_as] += 0

    def compile_by(self, prepare: Prepare) -> None:
        """Have the next call decide on compiling, unless it is compiled."""
        self._prepare = prepare if self._compiled_with_gradients is None else None

    def forward(self, x_t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self._counter[self._counted_as] += len(x_t)
        if self._prepare is not None:  # again with fewer images, if memory runs out
            call = partial(_with_input_gradient, self.network, x_t.contiguous(), *args, **kwargs)
            self._compiled_with_gradients = torch.is_grad_enabled() if self._prepare(self.network, call) else None
            self._prepare = None
        if self._compiled_with_gradients == torch.is_grad_enabled():
            return self._compiled(x_t, *args, **kwargs)
        return self.network.forward(x_t, *args, **kwargs)  # called, a compiled network would be compiled once more

    def _compiled(self, x_t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """A call with as many images as the largest before, so that a short last batch compiles nothing anew."""
        images, size = len(x_t), max(self._compiled_size, len(x_t))
        self._compiled_size = 0  # where memory runs out, the next batch is smaller, and to be computed as it is
        padded = [_padded(value, images, size) for value in (x_t.contiguous(), *args)]  # other strides compile anew
        named = {name: _padded(value, images, size) for name, value in kwargs.items()}
        torch.compiler.cudagraph_mark_step_begin()
        output = self.network(*padded, **named)[:images].clone()  # a graph's own is overwritten by the next call
        self._compiled_size = size
        return output


def _with_input_gradient(network: nn.Module, x_t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The output of a call, differentiated with respect to x_t where guidance will."""
    output = network(x_t, *args, **kwargs)
    if output.requires_grad and x_t.requires_grad:
        torch.autograd.grad(output.sum(), x_t)
    return output.detach().clone()


def _padded(value: Any, images: int, size: int) -> Any:
    """The rows of a batch's tensor, the last repeated until there are `size`; anything else as it is."""
    if images == size or not isinstance(value, Tensor) or value.shape[:1] != (images,):
        return value
    return torch.cat([value, value[-1:].expand(size - images, *value.shape[1:])])


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


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse a precision that a device does not have.

    Raises:
        ValueError: another name, or float16 without a GPU.
    """
    if precision not in get_args(Precision):
        raise ValueError(f'there is no precision "{precision}"; there are auto, {", ".join(get_args(Precision))}')
    if precision == "float16" and device.type == "cpu":
        raise ValueError("precision float16 needs a GPU; take bfloat16 or float32 here")


@contextmanager
def exact_float32() -> Generator[None]:
    """Compute float32 convolutions and matrix products without reduced precision.

    cuDNN's default for convolutions is TensorFloat-32, with 10 bits of mantissa, and a program may have allowed it for
    matrix products, or bfloat16 on CPUs. The process's settings are restored afterwards.
    """
    backends: Any = torch.backends  # settings are attributes of objects that stand for modules, which have no types
    operations = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul)
    before = [operation.fp32_precision for operation in operations]
    try:
        for operation in operations:
            operation.fp32_precision = "ieee"
        yield
    finally:
        for operation, precision in zip(operations, before, strict=True):
            operation.fp32_precision = precision
