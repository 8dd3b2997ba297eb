"""Training losses, their weights, and the variational bound, per sample.

Every loss is (B,), a mean over pixels; the mean over the batch is the objective's. The bound is in bits per dimension
throughout, as improved DDPM adds it to the mean squared error.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .chain import Step, gaussian_kl, posterior_mean, q_sample
from .denoiser import TARGET, Estimate, Prediction, Variance, interpret, split_output, transition

HALF_BIN = 1 / 255
"""Half the width of one of the 256 grey levels that [-1, 1] holds."""


@dataclass(frozen=True)
class Noised:
    """A batch of images and its noised version, x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps at `step`."""

    x0: Tensor
    eps: Tensor
    x_t: Tensor
    step: Step

    @classmethod
    def of(cls, x0: Tensor, eps: Tensor, step: Step) -> "Noised":
        """x0 (B, C, H, W) noised by eps, of that shape (DDPM eq. 4)."""
        return cls(x0, eps, q_sample(x0, eps, step), step)


def per_sample_mean(values: Tensor) -> Tensor:
    """(B, C, H, W) -> (B,)."""
    return values.flatten(start_dim=1).mean(dim=1)


def simple_loss(output: Tensor, noised: Noised, *, prediction: Prediction, variance: Variance) -> Tensor:
    """L_simple (B,): mean squared error of the network's prediction, DDPM eq. 14 for `eps`.

    output: raw network output (B, C or 2 C, H, W); its variance channels are not used.
    """
    predicted, _ = split_output(output, noised.x_t, variance)
    target = TARGET[prediction](noised.x0, noised.eps, noised.x_t, noised.step)
    return per_sample_mean((target - predicted) ** 2)


def hybrid_loss(
    output: Tensor,
    noised: Noised,
    *,
    prediction: Prediction,
    variance: Variance,
    num_steps: int,
    vlb_weight: float = 0.001,
    simple_weight: Tensor | float = 1.0,
) -> Tensor:
    """L_hybrid = L_simple + vlb_weight * L_vlb (B,), improved DDPM eq. 16, one term of the bound standing for all.

    The bound trains the variance alone: the gradient of the mean is stopped. num_steps: K of the chain trained on,
    since L_vlb sums K terms. simple_weight: of L_simple, (B,) or one for all, such as `min_snr_weight`.
    """
    simple = simple_loss(output, noised, prediction=prediction, variance=variance)
    predicted, variance_values = split_output(output, noised.x_t, variance)
    frozen_mean = predicted.detach() if variance_values is None else torch.cat([predicted.detach(), variance_values], 1)
    bound = vlb_loss(frozen_mean, noised, prediction=prediction, variance=variance, num_steps=num_steps)
    return simple_weight * simple + vlb_weight * bound


X0_ERROR_WEIGHT: dict[Prediction, Callable[[Tensor], Tensor]] = {
    "eps": lambda snr: snr,
    "x0": torch.ones_like,
    "v": lambda snr: snr + 1,
}
"""L_simple of each prediction over the squared error of x_0, as a function of the signal-to-noise ratio
alpha_bar / (1 - alpha_bar) (2303.09556 section 3.2, 2202.00512 section 4)."""


def min_snr_weight(step: Step, *, prediction: Prediction, gamma: float) -> Tensor:
    """The factor (B,), float64, that makes L_simple min(SNR, gamma) times the squared error of x_0 (2303.09556 eq. 9).

    step: one link a sample; alpha_bar above 0 for `eps`.

    Raises:
        ValueError: prediction "mean", whose error depends on the link and not on the signal-to-noise ratio alone.
    """
    if prediction not in X0_ERROR_WEIGHT:
        known = ", ".join(f'"{name}"' for name in X0_ERROR_WEIGHT)
        raise ValueError(f'min-SNR weights are for prediction {known}, not "{prediction}"')
    alpha_bar = torch.as_tensor(step.alpha_bar, dtype=torch.float64).reshape(-1)
    snr = alpha_bar / (1 - alpha_bar)
    return snr.clamp(max=gamma) / X0_ERROR_WEIGHT[prediction](snr)


def vlb_loss(output: Tensor, noised: Noised, *, prediction: Prediction, variance: Variance, num_steps: int) -> Tensor:
    """L_vlb (B,), bits per dimension: K times the bound's term at `step`, its unbiased estimate for uniform steps."""
    estimate = interpret(output, noised.x_t, noised.step, prediction=prediction, variance=variance)
    return num_steps * bound_term(estimate, noised.x0, noised.x_t, noised.step)


def bound_term(estimate: Estimate, x0: Tensor, x_t: Tensor, step: Step) -> Tensor:
    """The variational bound's term at `step` (B,), bits per dimension (DDPM eq. 5).

    KL(q(x_s | x_t, x_0) || p(x_s | x_t)); at the last link -log p(x_0 | x_t) of the 8-bit image (DDPM eq. 13).
    x0: (B, C, H, W) in [-1, 1], on the 256 grey levels.
    """
    mean, _ = transition(replace(estimate, var=0.0), x_t, step)
    log_var = torch.as_tensor(estimate.log_var, dtype=x_t.dtype, device=x_t.device)
    nll = -grey_level_log_likelihood(x0, mean, 0.5 * log_var)
    log_var_q = step.log_var_min.to(x_t.dtype) if isinstance(step.log_var_min, Tensor) else step.log_var_min
    kl = gaussian_kl(posterior_mean(x_t, x0, step), log_var_q, mean, log_var)
    at_last_link = torch.as_tensor(step.alpha_bar_prev == 1, device=x_t.device).reshape(-1)
    return torch.where(at_last_link, per_sample_mean(nll), per_sample_mean(kl)) / math.log(2)


def prior_bound(x0: Tensor, alpha_bar_T: float) -> Tensor:
    """KL(q(x_T | x_0) || N(0, I)) (B,), bits per dimension: the bound's term without parameters, L_T (DDPM eq. 5)."""
    mean = alpha_bar_T**0.5 * x0
    return per_sample_mean(gaussian_kl(mean, math.log(1 - alpha_bar_T), torch.zeros_like(mean), 0.0)) / math.log(2)


def grey_level_log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log probability of each 8-bit value under N(mean, exp(log_std)^2), nats; open-ended at 0 and 255 (DDPM eq. 13).

    x: (B, C, H, W) in [-1, 1]. The normal's distribution function is the tanh approximation, and probabilities are
    floored at 1e-12, both as published: likelihoods would differ in the fourth digit otherwise.
    """
    inverse_std = (-log_std).exp()
    cdf_upper = approximate_normal_cdf((x - mean + HALF_BIN) * inverse_std)
    cdf_lower = approximate_normal_cdf((x - mean - HALF_BIN) * inverse_std)
    upper = torch.where(x > 0.999, 1.0, cdf_upper)
    lower = torch.where(x < -0.999, 0.0, cdf_lower)
    return (upper - lower).clamp(min=1e-12).log()


def approximate_normal_cdf(x: Tensor) -> Tensor:
    """(1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, within 2e-4 of the normal distribution function."""
    return 0.5 * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())
