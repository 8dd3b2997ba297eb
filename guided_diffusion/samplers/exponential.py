"""What DPM-Solver++ and UniPC share: the probability flow in lambda = log(alpha / sigma), linear part solved exactly.

alpha = sqrt(alpha_bar) and sigma = sqrt(1 - alpha_bar). lambda rises from noise to x_0, where it is infinite; h is a
link's length in it.
"""

import math

from torch import Tensor


def half_log_snr(alpha_bar: float) -> float:
    """lambda = log(alpha / sigma); infinite at x_0, minus infinity in pure noise."""
    if alpha_bar in (0, 1):
        return math.inf if alpha_bar else -math.inf
    return 0.5 * (math.log(alpha_bar) - math.log1p(-alpha_bar))


def exponential_step(x_t: Tensor, x0: Tensor, *, alpha_bar: float, alpha_bar_s: float) -> Tensor:
    """sigma_s / sigma_t x_t - alpha_s (exp(-h) - 1) x0: x_s (B, C, H, W), exact where the estimate x0 of x_0 stays.

    DPM-Solver++ (2211.01095) Proposition 4.1 at first order, which is DDIM. A link to alpha_bar_s 1 ends in x0 itself.
    """
    h = half_log_snr(alpha_bar_s) - half_log_snr(alpha_bar)
    towards_x_t = ((1 - alpha_bar_s) / (1 - alpha_bar)) ** 0.5
    return towards_x_t * x_t - alpha_bar_s**0.5 * math.expm1(-h) * x0
