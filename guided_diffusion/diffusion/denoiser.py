"""From a network's raw output to an estimate of x_0.

A denoiser is a function `(x_t, step) -> Estimate`. Samplers, guidance and losses need nothing else of a model. The
network, its labels, its parameterisation and the clipping of its estimate are bound before sampling begins.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from .chain import (
    Coefficient,
    DiffusionChain,
    Step,
    posterior_mean,
    scaled,
    v_target,
    x0_from_eps,
    x0_from_posterior_mean,
    x0_from_v,
)

Prediction = Literal["eps", "x0", "v", "mean"]
"""Meaning of the first C output channels: the noise, the image, v (2202.00512), or the mean of q(x_s | x_t, x_0)."""

Variance = Literal["small", "large", "learned", "learned_range"]
"""Variance of p(x_s | x_t). small: the posterior's; large: beta (both DDPM section 3.2). From C more output channels:
learned, their logarithm; learned_range, a position in [-1, 1] between those two logarithms (improved DDPM eq. 15)."""

Network = Callable[[Tensor, Tensor], Tensor]
"""(x_t, t) -> raw output (B, C or 2 C, H, W); labels and low-resolution image are bound with functools.partial."""


@dataclass(frozen=True)
class Estimate:
    """Estimate of x_0, and of the distribution p(x_s | x_t) of the link."""

    x0: Tensor
    """(B, C, H, W) E[x_0 | x_t]."""
    log_var: Tensor | float
    """Log variance of p(x_s | x_t), nats; finite also at the last link."""
    mean: Tensor | None = None
    """(B, C, H, W) mean of p(x_s | x_t) where the network gave it; None: the posterior mean of x0."""
    var: Coefficient | None = None
    """Variance of p(x_s | x_t); None: exp(log_var), which the posterior's is not at the last link, where it is 0."""


class Denoiser(Protocol):
    """The interface of a model to samplers and guidance."""

    def __call__(self, x_t: Tensor, step: Step) -> Estimate:
        """The estimate for a batch x_t (B, C, H, W) at `step`."""
        ...


TO_X0: dict[Prediction, Callable[[Tensor, Tensor, Step], Tensor]] = {
    "eps": x0_from_eps,
    "x0": lambda x_t, output, step: output,
    "v": x0_from_v,
    "mean": x0_from_posterior_mean,
}

TARGET: dict[Prediction, Callable[[Tensor, Tensor, Tensor, Step], Tensor]] = {
    "eps": lambda x0, eps, x_t, step: eps,
    "x0": lambda x0, eps, x_t, step: x0,
    "v": lambda x0, eps, x_t, step: v_target(x0, eps, step),
    "mean": lambda x0, eps, x_t, step: posterior_mean(x_t, x0, step),
}


def has_learned_variance(variance: Variance) -> bool:
    """True if the network's output has C further channels for the variance."""
    return variance in ("learned", "learned_range")


def split_output(output: Tensor, x_t: Tensor, variance: Variance) -> tuple[Tensor, Tensor | None]:
    """The raw output's two halves: the prediction (B, C, H, W), and the channels of the variance, or None.

    Raises:
        ValueError: a number of channels that does not fit images and variance.
    """
    learned = has_learned_variance(variance)
    wanted = x_t.shape[1] * (1 + learned)
    if output.shape[1] != wanted:
        raise ValueError(
            f'the network gave {output.shape[1]} channels for images of {x_t.shape[1]}; with variance "{variance}" '
            f"it must give {wanted}"
        )
    return (output[:, : x_t.shape[1]], output[:, x_t.shape[1] :]) if learned else (output, None)


def interpret(output: Tensor, x_t: Tensor, step: Step, *, prediction: Prediction, variance: Variance) -> Estimate:
    """The estimate that a raw output stands for, (B, C, H, W), or (B, 2 C, H, W) with a learned variance; no clip."""
    predicted, values = split_output(output, x_t, variance)
    log_var_min, log_var_max, var = step.log_var_min, step.log_var_max, None
    if values is not None:
        towards_max = (values + 1) / 2
        interpolated = scaled(log_var_max, towards_max) + scaled(log_var_min, 1 - towards_max)
        log_var = values if variance == "learned" else interpolated
    elif variance == "small":  # log_var is the second entry's at the last link, since the posterior's own is log 0
        log_var, var = _cast(log_var_min, x_t), _cast(_at_last_link(step, 0.0, _exp(log_var_min)), x_t)
    else:  # log beta, but for the last link, where the published code takes the second entry of the posterior variance
        log_var = _cast(_at_last_link(step, log_var_min, log_var_max), x_t)
    mean = predicted if prediction == "mean" else None
    return Estimate(TO_X0[prediction](x_t, predicted, step), log_var, mean, var)


def _at_last_link(step: Step, there: Coefficient, elsewhere: Coefficient) -> Coefficient:
    if isinstance(step.alpha_bar_prev, Tensor):
        return torch.where(step.alpha_bar_prev == 1, there, elsewhere)
    return there if step.alpha_bar_prev == 1 else elsewhere


def _cast(coefficient: Coefficient, x_t: Tensor) -> Coefficient:
    return coefficient.to(x_t.dtype) if isinstance(coefficient, Tensor) else coefficient


@dataclass(frozen=True)
class Threshold:
    """Dynamic thresholding (2205.11487 section 2.3): an estimate far out of range is scaled back, not flattened.

    Each sample is clamped to [-s, s] and divided by s, the `quantile` of its |x_0| but at least 1. It bounds guidance
    inside the denoiser, such as `bounded(extrapolated(..), threshold)`. A classifier's `tilted` and ddpm's mean shift
    act after the threshold, as published, and are not bounded by it.

    Raises:
        ValueError: a quantile outside (0, 1].
    """

    quantile: float

    def __post_init__(self) -> None:
        if not 0 < self.quantile <= 1:
            raise ValueError(f"threshold is a share of a sample's values, above 0 and at most 1; got {self.quantile}")

    def __call__(self, x0: Tensor) -> Tensor:
        """x0 (B, C, H, W) brought into [-1, 1]."""
        s = x0.abs().flatten(1).quantile(self.quantile, dim=1).clamp(min=1).reshape(-1, *(1,) * (x0.ndim - 1))
        return x0.clamp(-s, s) / s


Clip = float | Threshold | None
"""Range of estimates of x_0: [-clip, clip], or [-1, 1] by a dynamic threshold; None: no limit."""


def clipped(x0: Tensor, clip: Clip) -> Tensor:
    """x0 (B, C, H, W) brought into the range of `clip`."""
    if clip is None:
        return x0
    return clip(x0) if isinstance(clip, Threshold) else x0.clamp(-clip, clip)


@dataclass(frozen=True)
class NetworkDenoiser:
    """A network as a Denoiser whose x0 is `clipped`."""

    network: Network
    prediction: Prediction
    variance: Variance
    clip: Clip = 1.0
    trained_on: DiffusionChain | None = None
    """The chain of whose links the network predicts the mean; None: each step is such a link."""

    def __call__(self, x_t: Tensor, step: Step) -> Estimate:
        """The (clipped) estimate for x_t (B, C, H, W). A network's own mean is kept as it is, clipped x0 or not.

        On longer links than it was trained on, a predicted mean determines x_0, and x_0 the mean of the longer link.
        The published code takes it for the longer link's own.
        """
        output = self.network(x_t, step.t).to(x_t.dtype)
        estimate = interpret(output, x_t, step, prediction=self.prediction, variance=self.variance)
        if estimate.mean is not None and self.trained_on is not None:
            link = self.trained_on.link_from(step, like=x_t)
            if torch.as_tensor(link.alpha_bar_prev != step.alpha_bar_prev).any():
                estimate = replace(estimate, x0=x0_from_posterior_mean(x_t, estimate.mean, link), mean=None)
        return replace(estimate, x0=clipped(estimate.x0, self.clip))


def bounded(denoiser: Denoiser, clip: Clip) -> Denoiser:
    """`denoiser` with its x0 `clipped`: guidance comes first and the clip afterwards, as in Imagen (2205.11487).

    A mean that the denoiser gives itself is kept as it is.
    """

    def within_bounds(x_t: Tensor, step: Step) -> Estimate:
        estimate = denoiser(x_t, step)
        return replace(estimate, x0=clipped(estimate.x0, clip))

    return within_bounds


def transition(estimate: Estimate, x_t: Tensor, step: Step) -> tuple[Tensor, Tensor | float]:
    """Mean (B, C, H, W) and variance of p(x_s | x_t), DDPM eq. 1 with the mean of eq. 7 at the estimated x_0."""
    mean = posterior_mean(x_t, estimate.x0, step) if estimate.mean is None else estimate.mean
    return mean, link_variance(estimate)


def link_variance(estimate: Estimate) -> Tensor | float:
    """Variance of p(x_s | x_t)."""
    return estimate.var if estimate.var is not None else _exp(estimate.log_var)


def _exp(log_var: Tensor | float) -> Tensor | float:
    return log_var.exp() if isinstance(log_var, Tensor) else torch.e**log_var
