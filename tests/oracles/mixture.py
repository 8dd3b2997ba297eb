"""A mixture of Gaussians under the forward process: everything a diffusion model estimates, in closed form.

x_0 ~ sum_m w_m N(mu_m, C_m) gives x_t ~ sum_m w_m N(sqrt(alpha_bar) mu_m, alpha_bar C_m + (1 - alpha_bar) I), from
which the posterior of the component is Bayes' rule and E[x_0 | x_t, component] is linear in x_t. With the component as
the class, that is an exact classifier, an exact unconditional denoiser and an exact conditional one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from guided_diffusion.diffusion.chain import Coefficient, DiffusionChain, Step
from guided_diffusion.diffusion.denoiser import Denoiser, Estimate


@dataclass(frozen=True)
class GaussianMixture:
    """means (M, D), covariances (M, D, D) positive definite, weights (M,) summing to 1; images (B, C, H, W), D = C H W.

    `denoiser` is a Denoiser and `log_prob` a LogProb; the chain is held because a LogProb is told t alone. The
    variances of p(x_s | x_t) that the denoisers state are the posterior's, 0 at the last link.
    """

    means: Tensor
    covariances: Tensor
    weights: Tensor
    chain: DiffusionChain

    def denoiser(self, x_t: Tensor, step: Step) -> Estimate:
        """E[x_0 | x_t]: the components' posterior means, weighed by the components' posterior probabilities."""
        probabilities = self._log_joint(x_t, step.alpha_bar).softmax(dim=1)
        mean = torch.einsum("bm,bmd->bd", probabilities, self._component_means(x_t, step.alpha_bar))
        return estimate(mean.reshape(x_t.shape), step)

    def component_mean(self, x_t: Tensor, step: Step, y: Tensor) -> Tensor:
        """E[x_0 | x_t, y] (B, C, H, W) for components y (B,)."""
        means = self._component_means(x_t, step.alpha_bar)
        return means[torch.arange(len(y)), y].reshape(x_t.shape)

    def component_denoiser(self, y: Tensor) -> Denoiser:
        """The Denoiser that knows the component y (B,)."""
        return lambda x_t, step: estimate(self.component_mean(x_t, step, y), step)

    def log_prob(self, x_t: Tensor, t: Tensor) -> Tensor:
        """log p(y | x_t) (B, M): the exact classifier of noisy images."""
        return self._log_joint(x_t, self._alpha_bar(t)).log_softmax(dim=1)

    def log_density(self, x_t: Tensor, step: Step) -> Tensor:
        """log q(x_t) (B,)."""
        return self._log_joint(x_t, step.alpha_bar).logsumexp(dim=1)

    def score(self, x_t: Tensor, step: Step) -> Tensor:
        """grad log q(x_t) (B, C, H, W), as the weighted sum of the components' own scores."""
        rotated, var = self._rotated(x_t, step.alpha_bar)
        component_scores = torch.einsum("bme,mde->bmd", -rotated / var, self._axes)
        probabilities = self._log_joint(x_t, step.alpha_bar).softmax(dim=1)
        return torch.einsum("bm,bmd->bd", probabilities, component_scores).reshape(x_t.shape)

    def marginal(self, step: Step) -> tuple[Tensor, Tensor]:
        """Means (M, D) and covariances (M, D, D) of the components of q(x_t); their weights do not change."""
        alpha_bar = float(step.alpha_bar)
        identity = torch.eye(self.means.shape[1], dtype=self.means.dtype)
        return alpha_bar**0.5 * self.means, alpha_bar * self.covariances + (1 - alpha_bar) * identity

    def draw(self, y: Tensor, *, generator: torch.Generator) -> Tensor:
        """x_0 (B, D) of components y (B,)."""
        noise = torch.randn(len(y), self.means.shape[1], dtype=torch.float64, generator=generator)
        return self.means[y] + torch.einsum("bde,be,be->bd", self._axes[y], self._axis_vars[y].sqrt(), noise)

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        return tuple(torch.linalg.eigh(self.covariances))

    @property
    def _axis_vars(self) -> Tensor:
        return self._eigen[0]

    @property
    def _axes(self) -> Tensor:
        return self._eigen[1]

    def _rotated(self, x_t: Tensor, alpha_bar: Coefficient) -> tuple[Tensor, Tensor]:
        """x_t about each component's mean, on that component's principal axes, and the variances there: (.., M, D)."""
        alpha_bar = alpha_bar.reshape(-1, 1, 1) if isinstance(alpha_bar, Tensor) else alpha_bar
        centred = x_t.flatten(1)[:, None] - alpha_bar**0.5 * self.means
        return torch.einsum("bmd,mde->bme", centred, self._axes), alpha_bar * self._axis_vars + (1 - alpha_bar)

    def _log_joint(self, x_t: Tensor, alpha_bar: Coefficient) -> Tensor:
        rotated, var = self._rotated(x_t, alpha_bar)
        return self.weights.log() - 0.5 * (rotated**2 / var + var.log() + math.log(2 * math.pi)).sum(dim=-1)

    def _component_means(self, x_t: Tensor, alpha_bar: Coefficient) -> Tensor:
        rotated, var = self._rotated(x_t, alpha_bar)
        power = alpha_bar.reshape(-1, 1, 1) if isinstance(alpha_bar, Tensor) else alpha_bar
        shrunk = power**0.5 * self._axis_vars / var * rotated
        return self.means + torch.einsum("bme,mde->bmd", shrunk, self._axes)

    def _alpha_bar(self, t: Tensor) -> Tensor:
        # Halfway between neighbours is where rounding of t to float32 can never lead.
        halfway = (self.chain.t[1:] + self.chain.t[:-1]) / 2
        k = torch.searchsorted(halfway, t.double())
        if float((self.chain.t[k] - t).abs().max()) > 1e-3:
            raise ValueError(f"the oracle's chain has no timestep {t.tolist()}")
        return self.chain.alpha_bar[k]


def estimate(x0: Tensor, step: Step) -> Estimate:
    """x0 with the posterior's variance, which is 0 at the last link."""
    at_last_link = isinstance(step.alpha_bar_prev, float) and step.alpha_bar_prev == 1
    return Estimate(x0=x0, log_var=step.log_var_min, var=0.0 if at_last_link else None)


def three_blobs(chain: DiffusionChain) -> GaussianMixture:
    """Three overlapping components with correlated axes in D = 4, unequally likely."""
    generator = torch.Generator().manual_seed(1)
    means = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    factors = 0.3 * torch.randn(3, 4, 4, dtype=torch.float64, generator=generator)
    covariances = factors @ factors.mT + 0.05 * torch.eye(4, dtype=torch.float64)
    return GaussianMixture(means, covariances, torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64), chain)


def batch_noise(seed: int) -> Callable[[Tensor], Tensor]:
    """A Noise with one generator for the whole batch: cheaper than one per sample where samples are many and tiny."""
    generator = torch.Generator().manual_seed(seed)
    return lambda like: torch.randn(like.shape, dtype=like.dtype, generator=generator)


def draws(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_is_component(x_0: Tensor, mixture: GaussianMixture, *, y: int) -> None:
    """Mean and covariance of the samples x_0 (B, C, H, W) are component y's, each number within 5 standard errors.

    These are sqrt(c_ii / n) for a mean and sqrt((c_ii c_jj + c_ij^2) / n) for a covariance.
    """
    flat, n = x_0.flatten(1), len(x_0)
    covariance = mixture.covariances[y]
    variance = covariance.diagonal()
    mean_errors = (flat.mean(dim=0) - mixture.means[y]).abs() / (variance / n).sqrt()
    standard_errors = ((torch.outer(variance, variance) + covariance**2) / n).sqrt()
    covariance_errors = (flat.mT.cov() - covariance).abs() / standard_errors
    assert float(mean_errors.max()) < 5, f"mean off by {float(mean_errors.max()):.1f} standard errors"
    assert float(covariance_errors.max()) < 5, f"covariance off by {float(covariance_errors.max()):.1f} standard errors"
