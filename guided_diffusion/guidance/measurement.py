"""Linear measurements y = A x_0 + noise of images, and rules by which they guide: log-densities of x_0.

Each rule asks for the residual r = y - A x_0 at the estimate of x_0, whose gradient goes through the network.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from ..diffusion.chain import Coefficient, Step

_linalg: Any = torch.linalg  # its functions have no types


@dataclass(frozen=True)
class Operator:
    """A x = mask * (rows x rows^T), in each channel of square images."""

    rows: Tensor
    """(M, S) float64: M is the side of measurements, S that of images."""
    mask: Tensor
    """(M, M) bool, True where a pixel is measured. With a part of it False, `rows` are the identity."""

    def __call__(self, x: Tensor) -> Tensor:
        """The measurement (B, C, M, M) of images (B, C, S, S) without noise."""
        rows = self.rows.to(x)
        return (rows @ x @ rows.T) * self.mask.to(x)

    @cached_property
    def spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvectors (M, M) of rows rows^T as columns, and eigenvalues (M, M) of A A^T for their pairs."""
        vectors, values, _ = _linalg.svd(self.rows, full_matrices=False)
        return vectors, torch.outer(values**2, values**2)


def known_pixels(mask: Tensor) -> Operator:
    """Inpainting: the pixels of images where `mask` (S, S) bool is True."""
    return Operator(torch.eye(len(mask), dtype=torch.float64, device=mask.device), mask)


def average_pooling(size: int, factor: int) -> Operator:
    """Super-resolution: means of squares of `factor` pixels a side, which divides `size`."""
    rows = torch.eye(size // factor, dtype=torch.float64).repeat_interleave(factor, dim=1) / factor
    return Operator(rows, torch.ones(len(rows), len(rows), dtype=torch.bool))


def gaussian_blur(size: int, sigma: float) -> Operator:
    """Deblurring: a Gaussian of standard deviation `sigma`, pixels; its weights sum to 1 at the border as well."""
    place = torch.arange(size, dtype=torch.float64)
    rows = torch.exp(-((place[:, None] - place) ** 2) / (2 * sigma**2))
    return Operator(rows / rows.sum(dim=1, keepdim=True), torch.ones(size, size, dtype=torch.bool))


def dps(operator: Operator, residual: Tensor, noise: float, step: Step) -> Tensor:
    """The log-density of which DPS's step is the gradient (2209.14687 Algorithm 1); `noise` is not used.

    DPS adds -zeta / |r| grad_{x_t} |r|^2 = -2 zeta grad |r| to each link's mean. Tilting by the gradient of a
    log-density adds beta / sqrt(1 - beta) times that gradient to the mean of ddpm's link, so that the log-density is
    -2 sqrt(1 - beta) / beta |r|, and its scale zeta. The step's length does not depend on |r|, nor on the noise.
    """
    beta = 1 - step.alpha_bar / step.alpha_bar_prev
    return -2 * _flat((1 - beta) ** 0.5 / beta) * _linalg.vector_norm(residual.flatten(1), dim=1)


def likelihood(operator: Operator, residual: Tensor, noise: float, step: Step) -> Tensor:
    """log N(y; A x_0, noise^2), nats but for a constant: Bayes' rule at scale 1 where x_0 is certain given x_t.

    Elsewhere the estimate stands for x_0 (Jensen's approximation of DPS), whose variance is left out: too strong.
    """
    return -residual.square().flatten(1).sum(dim=1) / (2 * noise**2)


def pseudoinverse(operator: Operator, residual: Tensor, noise: float, step: Step) -> Tensor:
    """log N(y; A x_0, noise^2 + (1 - alpha_bar) A A^T), nats but for a constant (Song et al., ICLR 2023).

    1 - alpha_bar is the variance of x_0 given x_t for Gaussian data of unit covariance, for which scale 1 is exact
    Bayes' rule.
    """
    vectors, squares = (one.to(residual) for one in operator.spectrum)
    in_basis = vectors.T @ residual @ vectors
    variance = noise**2 + (1 - step.alpha_bar) * squares
    return -(in_basis.square() / (2 * variance)).flatten(1).sum(dim=1).to(residual.dtype)


RuleName = Literal["dps", "pseudoinverse", "likelihood"]
Rule = Callable[[Operator, Tensor, float, Step], Tensor]
"""(operator, r (B, C, M, M), standard deviation of the noise, step) -> (B,)."""
RULES: Mapping[RuleName, Rule] = {"dps": dps, "pseudoinverse": pseudoinverse, "likelihood": likelihood}


def _flat(coefficient: Coefficient) -> Coefficient:
    return coefficient.flatten() if isinstance(coefficient, Tensor) else coefficient
