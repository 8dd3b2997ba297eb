"""Guidance as a score.

A `ScoreTerm` is s * grad_{x_t} log p(y | x_t), the part that Bayes' rule adds to the score of x_t. There are two places
to put it: `ddpm(..., mean_shift=term)` adds Sigma * term to the mean (ADM Algorithm 1), and `tilted(denoiser, term)`
subtracts sqrt(1 - alpha_bar) * term from eps (ADM Algorithm 2), which works with every sampler. Guidance that needs no
classifier is `extrapolated`: denoisers in, denoiser out. All of it composes by nesting.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from .chain import Step, inverse_signal, scaled, sigma
from .prediction import Denoiser, Estimate


class ScoreTerm(Protocol):
    """A term s * grad_{x_t} log p(y | x_t) of the score."""

    def __call__(self, x_t: Tensor, step: Step) -> Tensor:
        """The term at x_t (B, C, H, W), of the same shape and dtype."""
        ...


LogProb = Callable[[Tensor, Tensor], Tensor]
"""(x_t, t) -> (B, num_classes) log-probabilities, nats, differentiable with respect to x_t."""


def classifier_score(log_prob: LogProb, y: Tensor, scale: float) -> ScoreTerm:
    """scale * grad_{x_t} log p(y | x_t) of a noisy-image classifier (ADM section 4).

    y: int64 (B,). The gradient is taken at x_t, the state before the step, as the published code has it; Algorithm 1
    prints the mean in its place. At scale 0 the classifier is not called.
    """

    def term(x_t: Tensor, step: Step) -> Tensor:
        if scale == 0:
            return torch.zeros_like(x_t)
        with torch.enable_grad():
            x_in = x_t.detach().requires_grad_(True)
            log_p_y = log_prob(x_in, step.t).gather(1, y.reshape(-1, 1))
            (gradient,) = torch.autograd.grad(log_p_y.sum(), x_in)
        return scale * gradient

    return term


def tilted(denoiser: Denoiser, term: ScoreTerm) -> Denoiser:
    """The denoiser of p(x_0) p(y | x_0)^s: eps - sqrt(1 - alpha_bar) * term (ADM Algorithm 2), said of x_0.

    By Tweedie's formula that is x_0 + (1 - alpha_bar) / sqrt(alpha_bar) * term, which does not send x_0 through eps
    and back: term 0 leaves x_0 as it was, to the bit. The result is not clipped again, and a mean that the network
    gave itself is dropped for the posterior's at the new x_0, as published.
    """

    def guided(x_t: Tensor, step: Step) -> Estimate:
        estimate = denoiser(x_t, step)
        x0 = estimate.x0 + scaled((1 - step.alpha_bar) * inverse_signal(step), term(x_t, step))
        return replace(estimate, x0=x0, mean=None)

    return guided


def extrapolated(main: Denoiser, reference: Denoiser, weight: float) -> Denoiser:
    """D_ref + weight * (D_main - D_ref): classifier-free guidance (2207.12598) with an unconditional reference,
    autoguidance (2406.02507) with a weaker one. weight 1 has the x_0 of `main`; the variance is main's."""

    def guided(x_t: Tensor, step: Step) -> Estimate:
        estimate, x0_ref = main(x_t, step), reference(x_t, step).x0
        return replace(estimate, x0=x0_ref + weight * (estimate.x0 - x0_ref), mean=None)

    return guided


def within(term: ScoreTerm, sigma_min: float, sigma_max: float) -> ScoreTerm:
    """`term` where sigma_min < sigma <= sigma_max, zero elsewhere without calling it (guidance interval, 2404.07724).

    sigma = sqrt(1 / alpha_bar - 1), the noise level of the variance-exploding view.

    Raises (when called):
        ValueError: a step that differs from sample to sample.
    """

    def limited(x_t: Tensor, step: Step) -> Tensor:
        return term(x_t, step) if _inside(step, sigma_min, sigma_max) else torch.zeros_like(x_t)

    return limited


def between(guided: Denoiser, plain: Denoiser, sigma_min: float, sigma_max: float) -> Denoiser:
    """`guided` where sigma_min < sigma <= sigma_max, `plain` elsewhere; only one of the two is called.

    Raises (when called):
        ValueError: a step that differs from sample to sample.
    """

    def chosen(x_t: Tensor, step: Step) -> Estimate:
        return guided(x_t, step) if _inside(step, sigma_min, sigma_max) else plain(x_t, step)

    return chosen


def summed(*terms: ScoreTerm) -> ScoreTerm:
    """The sum of the terms: the product of their classifiers.

    Raises:
        ValueError: no term at all.
    """
    if not terms:
        raise ValueError("summed() needs at least one score term; leave guidance out to sample unguided")

    def total(x_t: Tensor, step: Step) -> Tensor:
        return torch.stack([term(x_t, step) for term in terms]).sum(dim=0)

    return total


def _inside(step: Step, sigma_min: float, sigma_max: float) -> bool:
    if isinstance(step.alpha_bar, Tensor):
        raise ValueError("an interval of guidance needs the whole batch at one step; call chain.at with one index")
    return sigma_min < sigma(step.alpha_bar) <= sigma_max
