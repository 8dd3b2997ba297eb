"""Guidance by a log-density of x_0, such as a classifier's of clean images, evaluated at the estimate of x_0."""

from dataclasses import replace

import torch
from torch import Tensor

from ..diffusion.chain import Step, scaled
from ..diffusion.denoiser import Denoiser, Estimate
from .score import CleanLogProb, LogDensity, Scale, at_label, is_zero, moved, times, value_and_gradient


def clean_log_density(log_prob: CleanLogProb, y: Tensor) -> LogDensity:
    """log p(y | x_0) of a classifier of clean images, for labels y (B,) int64."""

    def log_density(x_0: Tensor, step: Step) -> Tensor:
        return at_label(log_prob(x_0), y)

    return log_density


def guided_through(denoiser: Denoiser, log_density: LogDensity, scale: Scale) -> Denoiser:
    """`denoiser` tilted by scale * grad_{x_t} log p(y | x_0(x_t)), x_0(x_t) its own estimate (2302.07121, 2209.14687).

    log_density: (x_0, step) -> log p(y | x_0) (B,), for any y. The gradient goes through the denoiser, which is
    evaluated once and also differentiated. That stands for grad log E[p(y | x_0) | x_t]: exact where log p is linear in
    x_0 and the data are Gaussian, too large elsewhere as long as x_0(x_t) is uncertain. Give a denoiser without a clip
    and put `bounded` around the result: a clamp passes the gradient of a pixel wholly or not at all, so that rounding
    decides over pixels at its edge.
    """

    def guided(x_t: Tensor, step: Step) -> Estimate:
        if is_zero(scale):
            return denoiser(x_t, step)
        with torch.enable_grad():
            x_in = x_t.detach().requires_grad_(True)
            estimate = denoiser(x_in, step)
            (gradient,) = torch.autograd.grad(log_density(estimate.x0, step).sum(), x_in)
        log_var = estimate.log_var.detach() if isinstance(estimate.log_var, Tensor) else estimate.log_var
        return moved(replace(estimate, x0=estimate.x0.detach(), log_var=log_var), step, times(scale, gradient))

    return guided


def guided_at_estimate(denoiser: Denoiser, log_density: LogDensity, scale: Scale) -> Denoiser:
    """`denoiser` tilted by scale * sqrt(alpha_bar) grad_{x_0} log p(y | x_0) at its own estimate of x_0.

    log_density: (x_0, step) -> log p(y | x_0) (B,), for any y. The network is not differentiated. The Jacobian of
    x_0(x_t) is taken for that of Gaussian data of unit variance, sqrt(alpha_bar): x_0 moves by
    scale * (1 - alpha_bar) * gradient, 1 - alpha_bar being the variance of x_0 given x_t that pseudoinverse guidance
    (Song et al., ICLR 2023) assumes as well. EluCD (2310.11311) takes the Jacobian for 1, with which x_0 would move
    1 / sqrt(alpha_bar) times as far: without bound in high noise, where the estimate is no image yet and its gradient
    means least.
    """

    def guided(x_t: Tensor, step: Step) -> Estimate:
        estimate = denoiser(x_t, step)
        if is_zero(scale):
            return estimate
        _, gradient = value_and_gradient(lambda x_0: log_density(x_0, step), estimate.x0)
        return replace(estimate, x0=estimate.x0 + scaled(1 - step.alpha_bar, times(scale, gradient)), mean=None)

    return guided


def joint_log_prob(logits: Tensor, *, joint: float = 1.0, marginal: float = 0.5) -> Tensor:
    """log exp(joint f_y) - log sum_c exp(marginal f_c) of logits f (B, C), for each y: (B, C), EluCD's section 3.

    With both 1 it is the log-probability. A smaller `marginal` weakens the pull away from other classes in favour of
    the joint density of image and class, exp f_y.
    """
    return joint * logits - (marginal * logits).logsumexp(dim=1, keepdim=True)
