"""Guides: differentiable functions of images, the log-densities that samples are guided by.

A guide is a function of images (B, C, H, W) to (B,) nats, in which each value depends on its own image alone. It is
evaluated at the estimate of x_0, unless `noisy` or `through_network` says otherwise, as a decorator or in a call with
options. Parameters of these names are filled in (`CONTEXT`), and all others are options:

    step    the link: step.t, step.alpha_bar, ..
    t       timesteps (B,), as networks are conditioned on them
    y       labels (B,) int64, -1 without classes
    ids     numbers (B,) int64 of the samples
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..diffusion.chain import Step
from .score import LogDensity, Scale, is_zero, times

Place = Literal["x_t", "x_0", "network"]
"""The images of a guide: the noisy x_t; the estimate of x_0; or that estimate as the network's function of x_t."""

CONTEXT = ("step", "t", "y", "ids")
"""Parameters of guides that sampling fills in."""


@dataclass(frozen=True)
class Guide:
    """A function of images by which samples are guided."""

    function: Callable[..., Tensor]
    """Images (B, C, H, W), maybe some of `CONTEXT`, and its options to log-densities (B,)."""
    place: Place = "x_0"
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    name: str = ""
    """For messages and manifests, such as "mymodule:bright"."""
    record: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """All else that identifies it in manifests, such as a sha256."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # as the function
        return self.function(*args, **kwargs)

    def needs(self, name: str) -> bool:
        """True if the function has a parameter of this name."""
        return name in _parameters(self.function)

    def manifest(self) -> dict[str, Any]:
        """The guide as manifests record it."""
        return {"code": self.name, "evaluated_at": self.place, **self.record}

    def log_density(self, y: Tensor, ids: Sequence[int] | None = None) -> LogDensity:
        """The guide for labels y (B,) and samples `ids`.

        Raises:
            ValueError: a guide that needs the samples' ids, without them.
        """
        if self.needs("ids") and ids is None:
            raise ValueError(f"{self.name or 'this guide'} depends on the samples' ids, which were not given")

        numbers = torch.tensor(list(ids or ()), device=y.device)

        def log_density(x: Tensor, step: Step) -> Tensor:
            context = {"step": step, "t": step.t, "y": y, "ids": numbers}
            filled = {name: value for name, value in context.items() if self.needs(name)}
            return self.function(x, **filled, **self.options)

        return log_density


def noisy(function: Callable[..., Any], **options: Any) -> Guide:
    """A guide of x_t, whose score is added as a noisy-image classifier's: `def f(x_t, t)` or `def f(x_t, step)`."""
    return _placed(function, "x_t", options)


def at_estimate(function: Callable[..., Any], **options: Any) -> Guide:
    """A guide of the estimate of x_0, without the network's gradient (`guided_at_estimate`)."""
    return _placed(function, "x_0", options)


def through_network(function: Callable[..., Any], **options: Any) -> Guide:
    """A guide of the estimate of x_0 whose gradient goes through the network (`guided_through`)."""
    return _placed(function, "network", options)


def _placed(function: Callable[..., Any], place: Place, options: Mapping[str, Any]) -> Guide:
    return Guide(function.function if isinstance(function, Guide) else function, place, options)


def check_options(function: Callable[..., Any], options: Mapping[str, Any], *, name: str) -> None:
    """Refuse options that a function of images does not take, or the class or `partial` that makes one.

    Raises:
        ValueError: an unknown option or one that is missing, and those that there are.
    """
    parameters = list(_parameters(function).values())
    if not isinstance(function, type | partial):
        parameters = [one for one in parameters[1:] if one.name not in CONTEXT]
    takes_any = any(one.kind == one.VAR_KEYWORD for one in parameters)
    own = {one.name: one for one in parameters if one.kind != one.VAR_KEYWORD}
    wrong = [] if takes_any else sorted(options.keys() - own.keys())
    missing = [key for key, one in own.items() if one.default is one.empty and key not in options]
    if wrong or missing:
        found = f"has no option {wrong[0]}" if wrong else f"needs the option {missing[0]}"
        takes = ", ".join(own) or "no options"
        raise ValueError(f"{name} {found}; it takes {takes}: --guidance.function_options '{{NAME: VALUE}}'")


def combined(densities: Sequence[tuple[LogDensity, Scale]]) -> tuple[LogDensity, Scale]:
    """One log-density and its scale, of one or of several that are summed."""
    given = [one for one in densities if not is_zero(one[1])] or list(densities[:1])
    if len(given) == 1:
        return given[0]

    def total(x: Tensor, step: Step) -> Tensor:
        return torch.stack([times(scale, log_density(x, step)) for log_density, scale in given]).sum(dim=0)

    return total, 1.0


def check_guide(guide: Guide, step: Step, images: Tensor, y: Tensor) -> bool:
    """Try a guide on `images` (B, C, H, W), at least two, that differ: True if its gradient is not 0 at all of them.

    Raises:
        ValueError: a guide that fails, gives anything but finite values (B,), has no gradient, or mixes its images.
    """
    x = images.clone().requires_grad_(True)
    shown, name = tuple(images.shape), guide.name
    try:
        with torch.enable_grad():
            values: Any = guide.log_density(y, range(len(x)))(x, step)  # whatever it gives
    except Exception as error:  # whatever a user's own code raises
        raise ValueError(
            f"{name} fails on images (batch, channels, height, width) {shown}: {type(error).__name__}: {error}"
        ) from error
    shape = tuple(values.shape) if isinstance(values, Tensor) else None
    if shape != (len(x),):
        found = type(values).__name__ if shape is None else shape
        raise ValueError(f"{name} must give one value for each image, ({len(x)},), got {found}; sum over the others")
    if not values.isfinite().all():
        raise ValueError(f"{name} gives values that are not finite for images in [-1, 1]; keep roots and logs from 0")
    if not values.requires_grad:
        raise ValueError(f"{name} is not differentiable: its values have no gradient with respect to the images")
    of_first, *_ = torch.autograd.grad(values[0], x, retain_graph=True, materialize_grads=True)
    (gradient,) = torch.autograd.grad(values.sum(), x, materialize_grads=True)
    if not gradient.isfinite().all():
        raise ValueError(f"{name} has a gradient that is not finite for images in [-1, 1]; keep roots and logs from 0")
    if (of_first[1:] != 0).any():
        raise ValueError(f"{name} mixes the images of a batch: the value of one depends on another; compute each alone")
    return bool(gradient.any())


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function.forward if isinstance(function, nn.Module) else function).parameters
