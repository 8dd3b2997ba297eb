"""Guidance by a classifier of clean images, evaluated at the estimate of x_0."""

from dataclasses import replace

import torch
from torch import Tensor

from ..diffusion.chain import Step, scaled
from ..diffusion.denoiser import Denoiser, Estimate
from .score import CleanLogProb, Scale, is_zero, log_prob_and_gradient, moved, times


def guided_through(denoiser: Denoiser, log_prob: CleanLogProb, y: Tensor, scale: Scale) -> Denoiser:
    """`denoiser` tilted by scale * grad_{x_t} log p(y | x_0(x_t)), x_0(x_t) its own estimate (2302.07121, 2209.14687).

    The gradient goes through the denoiser, which is evaluated once and also differentiated. That stands for
    grad log E[p(y | x_0) | x_t]: exact where log p is linear in x_0 and the data are Gaussian, too large elsewhere as
    long as x_0(x_t) is uncertain. Give a denoiser without a clip and put `bounded` around the result: a clamp passes
    the gradient of a pixel wholly or not at all, so that rounding decides over pixels at its edge.
    """

    def guided(x_t: Tensor, step: Step) -> Estimate:
        if is_zero(scale):
            return denoiser(x_t, step)
        with torch.enable_grad():
            x_in = x_t.detach().requires_grad_(True)
            estimate = denoiser(x_in, step)
            log_p_y = log_prob(estimate.x0).gather(1, y.reshape(-1, 1))
            (gradient,) = torch.autograd.grad(log_p_y.sum(), x_in)
        log_var = estimate.log_var.detach() if isinstance(estimate.log_var, Tensor) else estimate.log_var
        return moved(replace(estimate, x0=estimate.x0.detach(), log_var=log_var), step, times(scale, gradient))

    return guided


def guided_at_estimate(denoiser: Denoiser, log_prob: CleanLogProb, y: Tensor, scale: Scale) -> Denoiser:
    """`denoiser` tilted by scale * sqrt(alpha_bar) grad_{x_0} log p(y | x_0) at its own estimate of x_0.

    The network is not differentiated. The Jacobian of x_0(x_t) is taken for that of Gaussian data of unit variance,
    sqrt(alpha_bar): x_0 moves by scale * (1 - alpha_bar) * gradient, 1 - alpha_bar being the variance of x_0 given x_t
    that pseudoinverse guidance (Song et al., ICLR 2023) assumes as well. EluCD (2310.11311) takes the Jacobian for 1,
    with which x_0 would move 1 / sqrt(alpha_bar) times as far: without bound in high noise, where the estimate is no
    image yet and its gradient means least.
    """

    def guided(x_t: Tensor, step: Step) -> Estimate:
        estimate = denoiser(x_t, step)
        if is_zero(scale):
            return estimate
        _, gradient = log_prob_and_gradient(log_prob, estimate.x0, y)
        return replace(estimate, x0=estimate.x0 + scaled(1 - step.alpha_bar, times(scale, gradient)), mean=None)

    return guided


def joint_log_prob(logits: Tensor, *, joint: float = 1.0, marginal: float = 0.5) -> Tensor:
    """log exp(joint f_y) - log sum_c exp(marginal f_c) of logits f (B, C), for each y: (B, C), EluCD's section 3.

    With both 1 it is the log-probability. A smaller `marginal` weakens the pull away from other classes in favour of
    the joint density of image and class, exp f_y.
    """
    return joint * logits - (marginal * logits).logsumexp(dim=1, keepdim=True)
