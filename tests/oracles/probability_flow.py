"""The probability flow of one Gaussian in closed form, and chains on which solvers of it show their order."""

import torch
from oracles.mixture import GaussianMixture
from torch import Tensor

from guided_diffusion.diffusion.chain import DiffusionChain


def flowed(x: Tensor, mixture: GaussianMixture, y: int, *, alpha_bar: float, alpha_bar_end: float) -> Tensor:
    """The exact flow of component y applied to x (B, D) at alpha_bar: the same quantile at alpha_bar_end.

    sqrt(a') mu + (a' C + (1 - a') I)^1/2 (a C + (1 - a) I)^-1/2 (x - sqrt(a) mu).
    """
    mean, (axis_vars, axes) = mixture.means[y], torch.linalg.eigh(mixture.covariances[y])
    var, var_end = (a * axis_vars + 1 - a for a in (alpha_bar, alpha_bar_end))
    return alpha_bar_end**0.5 * mean + ((x - alpha_bar**0.5 * mean) @ axes * (var_end / var).sqrt()) @ axes.mT


def lambda_chain(num_links: int, *, noisiest: float = -3.0, cleanest: float = 3.0) -> DiffusionChain:
    """num_links + 1 levels even in lambda, the half log-SNR: their ends stay where they are as links get shorter."""
    lam = torch.linspace(cleanest, noisiest, num_links + 1, dtype=torch.float64)
    return DiffusionChain(alpha_bar=(2 * lam).sigmoid(), t=torch.arange(num_links + 1, dtype=torch.float64))
