"""Guidance as a score, and as a denoiser made of others.

A `ScoreTerm` is s * grad_{x_t} log p(y | x_t), the part that Bayes' rule adds to the score of x_t. There are two places
to put it: `ddpm(..., mean_shift=term)` adds Sigma * term to the mean (ADM Algorithm 1), and `tilted(denoiser, term)`
subtracts sqrt(1 - alpha_bar) * term from eps (ADM Algorithm 2), which works with every sampler. Guidance that needs no
classifier is `extrapolated`, and classifiers of clean images are asked about the estimate of x_0 (`guided_through`,
`guided_at_estimate`): denoisers in, denoiser out. All of it composes by nesting.

What strength 1 means: `classifier_score` Bayes' rule, so with an exact classifier the class's own distribution, and 0
no guidance; `entropy_scaled_score` the same where the classifier knows nothing, more wherever it knows something;
`extrapolated` the denoiser `main`, so with an unconditional reference the conditional model without any guidance, and
with a weaker one no guidance; `guided_through` Bayes' rule if the classifier's log-probability were linear in x_0;
`guided_at_estimate` nothing exact. Above 1 all of them sharpen.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..diffusion.chain import DiffusionChain, Step, inverse_signal, scaled, sigma
from ..diffusion.denoiser import Denoiser, Estimate

ENTROPY_FLOOR = 0.01
"""Entropy, over that of a uniform prediction, below which `entropy_scaled_score` grows no further: a hundredfold."""


class ScoreTerm(Protocol):
    """A term s * grad_{x_t} log p(y | x_t) of the score."""

    def __call__(self, x_t: Tensor, step: Step) -> Tensor:
        """The term at x_t (B, C, H, W), of the same shape and dtype."""
        ...


LogProb = Callable[[Tensor, Tensor], Tensor]
"""(x_t, t) -> (B, num_classes) log-probabilities, nats, differentiable with respect to x_t."""

CleanLogProb = Callable[[Tensor], Tensor]
"""x_0 -> (B, num_classes) log-probabilities, nats, differentiable with respect to x_0."""

Scale = float | Tensor
"""s of the whole batch, or (B,), one a sample."""

GradientAt = Literal["x_t", "mean"]
"""Where a mean shift's gradient is taken: at the state before the step, or at the mean of the one after it."""


def classifier_score(log_prob: LogProb, y: Tensor, scale: Scale) -> ScoreTerm:
    """scale * grad_{x_t} log p(y | x_t) of a noisy-image classifier (ADM section 4).

    y: int64 (B,). The gradient is taken at the x_t given; samplers give the state before the step, as the published
    code does, and `ddpm(..., gradient_at="mean")` what Algorithm 1 prints. At scale 0 the classifier is not called.
    """

    def term(x_t: Tensor, step: Step) -> Tensor:
        if not isinstance(scale, Tensor) and scale == 0:
            return torch.zeros_like(x_t)
        _, gradient = _log_p_and_gradient(lambda x: log_prob(x, step.t), x_t, y)
        return _times(scale, gradient)

    return term


def entropy_scaled_score(log_prob: LogProb, y: Tensor, scale: Scale) -> ScoreTerm:
    """`classifier_score` with the scale s log C / H(p(. | x_t)) of each sample (ED-DPM, 2206.11474).

    The entropy H, nats, comes from the same C log-probabilities as the gradient: one call of the classifier. Where the
    prediction is certain of y its gradient vanishes faster than H does, but certain of another class it does not:
    H / log C is kept above `ENTROPY_FLOOR`, a bound of ours.

    Raises (when called):
        ValueError: a classifier of one class, whose entropy is always 0.
    """

    def term(x_t: Tensor, step: Step) -> Tensor:
        if not isinstance(scale, Tensor) and scale == 0:
            return torch.zeros_like(x_t)
        log_p, gradient = _log_p_and_gradient(lambda x: log_prob(x, step.t), x_t, y)
        if log_p.shape[1] < 2:
            raise ValueError("a classifier of one class is always certain; scale it by a number, not by its entropy")
        p = log_p.exp()
        entropy = -torch.xlogy(p, p).sum(dim=1)  # a probability of 0 adds 0, where p * log_p is not a number
        return _times(scale / (entropy / math.log(log_p.shape[1])).clamp(min=ENTROPY_FLOOR), gradient)

    return term


def tilted(denoiser: Denoiser, term: ScoreTerm) -> Denoiser:
    """The denoiser of p(x_0) p(y | x_0)^s: eps - sqrt(1 - alpha_bar) * term (ADM Algorithm 2), said of x_0.

    By Tweedie's formula that is x_0 + (1 - alpha_bar) / sqrt(alpha_bar) * term, which does not send x_0 through eps
    and back: term 0 leaves x_0 as it was, to the bit. The result is not clipped again, and a mean that the network
    gave itself is dropped for the posterior's at the new x_0, as published.
    """

    def guided(x_t: Tensor, step: Step) -> Estimate:
        estimate = denoiser(x_t, step)
        return _moved(estimate, step, term(x_t, step))

    return guided


def extrapolated(main: Denoiser, reference: Denoiser, weight: float) -> Denoiser:
    """D_ref + weight * (D_main - D_ref): classifier-free guidance (2207.12598) with an unconditional reference,
    autoguidance (2406.02507) with a weaker one. weight 1 has the x_0 of `main`; the variance is main's.

    The first paper's own weight is one less: it counts from the conditional model. Nothing is clipped, and clipped
    estimates are extrapolated out of range: give denoisers without a clip and put `bounded` around the result.
    """

    def guided(x_t: Tensor, step: Step) -> Estimate:
        estimate, x0_ref = main(x_t, step), reference(x_t, step).x0
        return replace(estimate, x0=x0_ref + weight * (estimate.x0 - x0_ref), mean=None)

    return guided


def guided_through(denoiser: Denoiser, log_prob: CleanLogProb, y: Tensor, scale: Scale) -> Denoiser:
    """`denoiser` tilted by scale * grad_{x_t} log p(y | x_0(x_t)), x_0(x_t) its own estimate (2302.07121, 2209.14687).

    The gradient goes through the denoiser, which is evaluated once and also differentiated. That stands for
    grad log E[p(y | x_0) | x_t]: exact where log p is linear in x_0 and the data are Gaussian, too large elsewhere as
    long as x_0(x_t) is uncertain. Give a denoiser without a clip and put `bounded` around the result: a clamp passes
    the gradient of a pixel wholly or not at all, so that rounding decides over pixels at its edge.
    """

    def guided(x_t: Tensor, step: Step) -> Estimate:
        if not isinstance(scale, Tensor) and scale == 0:
            return denoiser(x_t, step)
        with torch.enable_grad():
            x_in = x_t.detach().requires_grad_(True)
            estimate = denoiser(x_in, step)
            log_p_y = log_prob(estimate.x0).gather(1, y.reshape(-1, 1))
            (gradient,) = torch.autograd.grad(log_p_y.sum(), x_in)
        return _moved(_detached(estimate), step, _times(scale, gradient))

    return guided


def guided_at_estimate(
    denoiser: Denoiser,
    log_prob: CleanLogProb,
    y: Tensor,
    scale: Scale,
    *,
    schedule: Callable[[Step], float] | None = None,
) -> Denoiser:
    """`denoiser` tilted by scale * schedule(step) * grad_{x_0} log p(y | x_0) at its own estimate (EluCD, 2310.11311).

    The Jacobian of x_0(x_t) is taken for the identity, so the network is not differentiated. schedule: None for 1.
    """

    def guided(x_t: Tensor, step: Step) -> Estimate:
        estimate = denoiser(x_t, step)
        if not isinstance(scale, Tensor) and scale == 0:
            return estimate
        _, gradient = _log_p_and_gradient(log_prob, estimate.x0, y)
        strength = scale if schedule is None else scale * schedule(step)
        return _moved(estimate, step, _times(strength, gradient))

    return guided


def joint_log_prob(logits: Tensor, *, joint: float = 1.0, marginal: float = 0.5) -> Tensor:
    """log exp(joint f_y) - log sum_c exp(marginal f_c) of logits f (B, C), for each y: (B, C), EluCD's section 3.

    With both 1 it is the log-probability. A smaller `marginal` weakens the pull away from other classes in favour of
    the joint density of image and class, exp f_y.
    """
    return joint * logits - (marginal * logits).logsumexp(dim=1, keepdim=True)


def sine_schedule(chain: DiffusionChain, *, share: float = 0.3) -> Callable[[Step], float]:
    """1 + share sin(pi k / K) beta_max / beta_k at the link that leaves index k of K: EluCD's schedule.

    There the mean moves by (Sigma + share sin(pi t / T) Sigma_max) * gradient; tilting moves it by beta / sqrt(alpha),
    so the rest is a factor, with Sigma = beta. Meant for ancestral sampling, as published, along this very chain.

    Raises (when called):
        ValueError: a step that differs from sample to sample.
    """
    beta_max = float((1 - chain.alpha_bar / torch.cat([torch.ones(1).double(), chain.alpha_bar[:-1]])).max())

    def factor(step: Step) -> float:
        if isinstance(step.alpha_bar, Tensor) or isinstance(step.log_var_max, Tensor):
            raise ValueError("a schedule of guidance needs the whole batch at one step; call chain.at with one index")
        k = int((chain.alpha_bar > step.alpha_bar).sum())
        return 1 + share * math.sin(math.pi * k / len(chain)) * beta_max / math.exp(step.log_var_max)

    return factor


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


def _log_p_and_gradient(log_prob: CleanLogProb, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """log_prob (B, num_classes) at x, and the gradient of log p(y) with respect to it; neither keeps a graph."""
    with torch.enable_grad():
        x_in = x.detach().requires_grad_(True)
        log_p = log_prob(x_in)
        (gradient,) = torch.autograd.grad(log_p.gather(1, y.reshape(-1, 1)).sum(), x_in)
    return log_p.detach(), gradient


def _times(scale: Scale, gradient: Tensor) -> Tensor:
    if not isinstance(scale, Tensor):
        return scale * gradient
    return scale.to(gradient.dtype).reshape(-1, *(1,) * (gradient.ndim - 1)) * gradient


def _moved(estimate: Estimate, step: Step, term: Tensor) -> Estimate:
    x0 = estimate.x0 + scaled((1 - step.alpha_bar) * inverse_signal(step), term)
    return replace(estimate, x0=x0, mean=None)


def _detached(estimate: Estimate) -> Estimate:
    log_var = estimate.log_var.detach() if isinstance(estimate.log_var, Tensor) else estimate.log_var
    return replace(estimate, x0=estimate.x0.detach(), log_var=log_var)


def _inside(step: Step, sigma_min: float, sigma_max: float) -> bool:
    if isinstance(step.alpha_bar, Tensor):
        raise ValueError("an interval of guidance needs the whole batch at one step; call chain.at with one index")
    return sigma_min < sigma(step.alpha_bar) <= sigma_max
