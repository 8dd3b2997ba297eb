"""Score terms s * grad_{x_t} log p(y | x_t), and the denoiser that a term tilts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from ..diffusion.chain import Step, inverse_signal, scaled
from ..diffusion.denoiser import Denoiser, Estimate


class ScoreTerm(Protocol):
    """A term s * grad_{x_t} log p(y | x_t) of the score."""

    def __call__(self, x_t: Tensor, step: Step) -> Tensor:
        """The term at x_t (B, C, H, W), of the same shape and dtype."""
        ...


LogProb = Callable[[Tensor, Tensor], Tensor]
"""(x_t, t) -> (B, num_classes) log-probabilities, nats, differentiable with respect to x_t."""

CleanLogProb = Callable[[Tensor], Tensor]
"""x_0 -> (B, num_classes) log-probabilities, nats, differentiable with respect to x_0."""

LogDensity = Callable[[Tensor, Step], Tensor]
"""(x, step) -> (B,) log-density given x of what is asked for, nats but for a constant, differentiable with respect to
x: x_t, or of guidance at the estimate x_0."""

Scale = float | Tensor
"""s of the whole batch, or (B,), one a sample."""


def score_of(log_density: LogDensity, scale: Scale) -> ScoreTerm:
    """scale * grad_{x_t} of any log-density, at the x_t that the sampler gives. At scale 0 it is not evaluated."""

    def term(x_t: Tensor, step: Step) -> Tensor:
        if is_zero(scale):
            return torch.zeros_like(x_t)
        _, gradient = value_and_gradient(lambda x: log_density(x, step), x_t)
        return times(scale, gradient)

    return term


def tilted(denoiser: Denoiser, term: ScoreTerm) -> Denoiser:
    """The denoiser of p(x_0) p(y | x_0)^s: eps - sqrt(1 - alpha_bar) * term (ADM Algorithm 2), in terms of x_0.

    By Tweedie's formula that is x_0 + (1 - alpha_bar) / sqrt(alpha_bar) * term, which avoids the
    way through eps and back: term 0 leaves x_0 unchanged to the bit. The result is not clipped again. A mean that the
    network gave is replaced by the posterior's at the new x_0, as published.
    """

    def guided(x_t: Tensor, step: Step) -> Estimate:
        estimate = denoiser(x_t, step)
        return moved(estimate, step, term(x_t, step))

    return guided


def summed(*terms: ScoreTerm) -> ScoreTerm:
    """The sum of the terms: the product of their classifiers.

    Raises:
        ValueError: no term at all.
    """
    if not terms:
        raise ValueError("summed() needs at least one score term; leave guidance out to sample unguided")
    if len(terms) == 1:
        return terms[0]

    def total(x_t: Tensor, step: Step) -> Tensor:
        return torch.stack([term(x_t, step) for term in terms]).sum(dim=0)

    return total


def value_and_gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """A function (B,) of each sample of x, and its gradient with respect to x; neither keeps a graph."""
    with torch.inference_mode(False), torch.enable_grad():
        x_in = x.detach().clone().requires_grad_(True)  # a tensor of inference mode could not be differentiated
        value = function(x_in)
        (gradient,) = torch.autograd.grad(value.sum(), x_in)
    return value.detach(), gradient


def log_prob_and_gradient(log_prob: CleanLogProb, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """log_prob (B, num_classes) at x, and the gradient of log p(y) with respect to it; neither keeps a graph."""
    log_p = list[Tensor]()

    def of_class(x_in: Tensor) -> Tensor:
        log_p.append(log_prob(x_in))
        return at_label(log_p[0], y)

    _, gradient = value_and_gradient(of_class, x)
    return log_p[0].detach(), gradient


def at_label(log_p: Tensor, y: Tensor) -> Tensor:
    """The columns y (B,) of log-probabilities (B, num_classes): (B,)."""
    return log_p.gather(1, y.clone().reshape(-1, 1)).flatten()


def is_zero(scale: Scale) -> bool:
    """True where a whole batch goes unguided, so that no classifier need be evaluated."""
    return not isinstance(scale, Tensor) and scale == 0


def times(scale: Scale, gradient: Tensor) -> Tensor:
    """scale * gradient (B, C, H, W)."""
    if not isinstance(scale, Tensor):
        return scale * gradient
    return scale.to(gradient.dtype).reshape(-1, *(1,) * (gradient.ndim - 1)) * gradient


def moved(estimate: Estimate, step: Step, term: Tensor) -> Estimate:
    """The estimate tilted by a score term, without a mean of its own."""
    x0 = estimate.x0 + scaled((1 - step.alpha_bar) * inverse_signal(step), term)
    return replace(estimate, x0=x0, mean=None)
