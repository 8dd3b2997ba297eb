"""The gradient that guides: how large it is beside the noise, and whether it is the slope of the log-probability."""

import torch
from torch import Tensor

from guided_diffusion.diffusion.chain import Step
from guided_diffusion.guidance import LogProb

HALF_WIDTH = 1e-4
"""Of the central difference, along a unit vector: its truncation error, about 1e-8 of the third derivative, and
float64's rounding, about 1e-12, are both far below float32's rounding of the gradient."""


def correction_ratio(gradient: Tensor, eps: Tensor, step: Step) -> Tensor:
    """sqrt(1 - alpha_bar) ||g|| / ||eps|| of each sample: guidance's correction of eps at scale 1, beside eps.

    gradient: grad_{x_t} log p(y | x_t) (B, C, H, W); eps: the noise in x_t, of that shape. Returns (B,).
    """
    norm_g, norm_eps = (torch.linalg.vector_norm(x.double().flatten(1), dim=1) for x in (gradient, eps))
    amplitude = torch.as_tensor((1 - step.alpha_bar) ** 0.5, device=gradient.device).flatten()
    return amplitude * norm_g / norm_eps


def slope_error(gradient: Tensor, log_prob: LogProb, x_t: Tensor, t: Tensor, y: Tensor, *, direction: Tensor) -> float:
    """How far the gradient's slopes are from those of log p(y | x_t), relative to the larger of the two, over a batch.

    Each sample's slope along its direction is (log p(x_t + h u) - log p(x_t - h u)) / 2h, u the unit vector; the error
    is a quotient of root sums of squares, 0 where all slopes are exactly 0 and never above 2.

    gradient: (B, C, H, W), as guidance computes it. log_prob: the same classifier in float64. x_t, direction: (B, C, H,
    W); t: (B,); y: (B,) int64.
    """
    u = direction.double() / torch.linalg.vector_norm(direction.double(), dim=(1, 2, 3), keepdim=True)
    ends = [log_prob(x_t.double() + h * u, t.double()) for h in (HALF_WIDTH, -HALF_WIDTH)]
    above, below = (log_p.gather(1, y[:, None]).flatten() for log_p in ends)
    measured = (above - below) / (2 * HALF_WIDTH)
    claimed = (gradient.double() * u).sum(dim=(1, 2, 3))
    size = float(torch.maximum(measured.norm(), claimed.norm()))
    return float((claimed - measured).norm()) / size if size else 0.0
