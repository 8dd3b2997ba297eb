"""The diffusion chain as data, the draws of training from it, and the identities that hold on one link of it.

A chain is two float64 columns: the signal power alpha_bar[k] and the timestep t[k], the input of networks. All that a
formula needs of one link x_t -> x_s is a `Step`. `schedules` chooses the noise levels, and `denoiser` interprets a
network's output.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

Coefficient = float | Tensor
"""A number for the whole batch at one step, or a float64 tensor (B, 1, 1, 1) with one step per sample."""


@dataclass(frozen=True)
class Step:
    """One link x_t -> x_s of a chain, s being the less noisy neighbour of t."""

    t: Tensor
    """(B,) timesteps for networks, on the scale that they were trained with."""
    alpha_bar: Coefficient
    """Signal power at t."""
    alpha_bar_prev: Coefficient
    """Signal power at s; exactly 1 at the last link, where x_s is x_0."""
    log_var_min: Coefficient
    """Log variance of q(x_s | x_t, x_0), nats; the chain's first entry, log 0, is replaced by its second."""
    log_var_max: Coefficient
    """Log of this link's beta = 1 - alpha_bar / alpha_bar_prev, nats."""


class TrainingChain(Protocol):
    """Noise levels of training, numbered or continuous; every sample draws one."""

    def drawn(self, u: Tensor, *, like: Tensor) -> Step:
        """The links of samples like `like` (B, ...), uniform over the levels for u (B,) float64 uniform in [0, 1)."""
        ...


@dataclass(frozen=True)
class DiffusionChain:
    """K noise levels, index 0 the least noisy: alpha_bar (K,) strictly decreasing in [0, 1), and t (K,), both float64.

    Raises:
        ValueError: fewer than two levels, another dtype or shape, or alpha_bar not decreasing.
    """

    alpha_bar: Tensor
    t: Tensor

    def __post_init__(self) -> None:
        if self.alpha_bar.dtype != torch.float64 or self.t.dtype != torch.float64:
            raise ValueError(f"a chain is kept in float64, got alpha_bar {self.alpha_bar.dtype} and t {self.t.dtype}")
        if self.alpha_bar.ndim != 1 or self.alpha_bar.shape != self.t.shape:
            found = f"{tuple(self.alpha_bar.shape)} and {tuple(self.t.shape)}"
            raise ValueError(f"alpha_bar and t are two columns of one length, got {found}")
        if len(self.alpha_bar) < 2:
            raise ValueError(f"a chain needs at least 2 noise levels, got {len(self.alpha_bar)}")
        levels = torch.cat([self.alpha_bar.new_ones(1), self.alpha_bar])
        if not bool((levels.diff() < 0).all()) or float(levels[-1]) < 0:
            raise ValueError("alpha_bar must fall strictly from below 1 to at least 0 along the chain")

    def __len__(self) -> int:
        return len(self.alpha_bar)

    def at(self, k: int | Tensor, *, like: Tensor) -> Step:
        """The link that leaves index k, for a batch like `like` (B, ...).

        k: one index for the whole batch, or int64 (B,), one a sample. With one index the coefficients are Python
        floats, which cost no kernel launch; with (B,) they are float64 tensors (B, 1, ..., 1) on like's device.

        Raises:
            IndexError: an index outside 0 .. len(self) - 1.
        """
        low, high = (k, k) if isinstance(k, int) else (int(k.min()), int(k.max()))
        if low < 0 or high >= len(self):
            raise IndexError(f"index {low if low < 0 else high} is not in this chain of {len(self)} steps")
        if isinstance(k, int):
            t, *link = self._rows[k]
            return Step(torch.full((like.shape[0],), t, dtype=_t_dtype(like), device=like.device), *link)
        return step_a_sample(self._columns[:, k.to(self.t.device)], like=like)

    def link_from(self, step: Step, *, like: Tensor) -> Step:
        """This chain's link that begins where one of a shortened chain does, for a batch like `like`."""
        if not isinstance(step.alpha_bar, Tensor):
            return self.at(int((self.alpha_bar >= step.alpha_bar).sum()) - 1, like=like)
        return self.at((self.alpha_bar[:, None] >= step.alpha_bar.flatten().cpu()).sum(dim=0) - 1, like=like)

    def drawn(self, u: Tensor, *, like: Tensor) -> Step:
        """The link at the index of each sample that u (B,), uniform in [0, 1), falls on."""
        return self.at(uniform_indices(u, len(self)), like=like)

    @cached_property
    def _columns(self) -> Tensor:
        """(5, K) the fields of a `Step` at every index."""
        alpha_bar_prev = torch.cat([self.alpha_bar.new_ones(1), self.alpha_bar[:-1]])
        beta = 1 - self.alpha_bar / alpha_bar_prev
        var_min = beta * (1 - alpha_bar_prev) / (1 - self.alpha_bar)
        var_min[0] = var_min[1]
        return torch.stack([self.t, self.alpha_bar, alpha_bar_prev, var_min.log(), beta.log()])

    @cached_property
    def _rows(self) -> list[list[float]]:
        """The same as Python floats, by index: formed anew at every step they cost 0.2 ms."""
        return [[float(value) for value in row] for row in self._columns.T]

    def shortened(self, keep: Tensor) -> "DiffusionChain":
        """The chain of the kept indices alone: same noise levels, longer links (improved DDPM, section 4).

        keep: int64 (n,), strictly increasing, as `schedules.timestep_subset` returns it.

        Raises:
            ValueError: fewer than two indices, or out of order.
            IndexError: an index beyond this chain.
        """
        if len(keep) and (int(keep.min()) < 0 or int(keep.max()) >= len(self)):
            outside = int(keep.min()) if int(keep.min()) < 0 else int(keep.max())
            raise IndexError(f"asked to keep index {outside} of a chain of {len(self)} steps")
        return DiffusionChain(alpha_bar=self.alpha_bar[keep], t=self.t[keep])


def step_a_sample(columns: Tensor, *, like: Tensor) -> Step:
    """A link for each sample of a batch like `like` (B, ...) from a `Step`'s fields, (5, B) float64 on the CPU."""
    t, *link = broadcast_like(columns, like)
    broadcastable = (-1, *(1,) * (like.ndim - 1))
    return Step(t.to(_t_dtype(like)), *(column.reshape(broadcastable) for column in link))


def broadcast_like(values: Tensor, like: Tensor) -> Tensor:
    """Values from the CPU on like's device."""
    # From pinned memory, since any other copy makes the host wait for the GPU.
    return (values.pin_memory() if like.is_cuda else values).to(like.device, non_blocking=True)


def _t_dtype(like: Tensor) -> torch.dtype:
    """float32 at least: in bfloat16 a timestep of 999 would become 1000."""
    return torch.promote_types(like.dtype, torch.float32)


def uniform_indices(u: Tensor, num_steps: int) -> Tensor:
    """Indices k (B,) int64, uniform over num_steps of them, from u (B,) uniform in [0, 1)."""
    return (u * num_steps).long().clamp(max=num_steps - 1)


def sigma(alpha_bar: float) -> float:
    """sqrt(1 / alpha_bar - 1), noise over signal: the noise level of the variance-exploding view (2206.00364)."""
    return (1 / alpha_bar - 1) ** 0.5 if alpha_bar > 0 else float("inf")


def scaled(coefficient: Coefficient, x: Tensor) -> Tensor:
    """coefficient * x in x's dtype.

    Coefficients are formed in float64, since 1 - alpha_bar cancels in float32 (beta = 1e-4 keeps three digits); only
    the finished product belongs in the images' precision.
    """
    return coefficient.to(x.dtype) * x if isinstance(coefficient, Tensor) else coefficient * x


def inverse_signal(step: Step) -> Coefficient:
    """1 / sqrt(alpha_bar), the factor of x_t in x_0.

    Raises:
        ValueError: alpha_bar 0; with one step a sample the result is infinite there instead.
    """
    if not isinstance(step.alpha_bar, Tensor) and step.alpha_bar == 0:
        raise ValueError(
            "x_t at alpha_bar 0 holds no signal: neither eps nor a score determines x_0 there; predict v or x0 "
            "and leave that level unguided, or use a chain that ends above alpha_bar 0"
        )
    return step.alpha_bar**-0.5


def q_sample(x0: Tensor, eps: Tensor, step: Step) -> Tensor:
    """Draw from q(x_t | x_0), DDPM eq. 4. x0, eps: (B, C, H, W)."""
    return diffused(x0, eps, alpha_bar=step.alpha_bar)


def diffused(x0: Tensor, eps: Tensor, *, alpha_bar: Coefficient) -> Tensor:
    """sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps. x0, eps: (B, C, H, W)."""
    return scaled(alpha_bar**0.5, x0) + scaled((1 - alpha_bar) ** 0.5, eps)


def posterior_mean(x_t: Tensor, x0: Tensor, step: Step) -> Tensor:
    """Mean of q(x_s | x_t, x_0), DDPM eq. 7.

    x_t, x0: (B, C, H, W), same dtype. Exact for any s < t, so it serves shortened chains unchanged.
    """
    towards_x0, towards_x_t = posterior_mean_weights(step)
    return scaled(towards_x0, x0) + scaled(towards_x_t, x_t)


def posterior_mean_weights(step: Step) -> tuple[Coefficient, Coefficient]:
    """The weights of x_0 and x_t in the mean of q(x_s | x_t, x_0), DDPM eq. 7."""
    beta = 1 - step.alpha_bar / step.alpha_bar_prev
    towards_x0 = step.alpha_bar_prev**0.5 * beta / (1 - step.alpha_bar)
    towards_x_t = (1 - beta) ** 0.5 * (1 - step.alpha_bar_prev) / (1 - step.alpha_bar)
    return towards_x0, towards_x_t


def x0_from_eps(x_t: Tensor, eps: Tensor, step: Step) -> Tensor:
    """x_0 of x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps, which `inverse_signal` refuses at alpha_bar 0."""
    return scaled(inverse_signal(step), x_t) - scaled((1 / step.alpha_bar - 1) ** 0.5, eps)


def eps_from_x0(x_t: Tensor, x0: Tensor, step: Step) -> Tensor:
    """eps of x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps."""
    return scaled((1 - step.alpha_bar) ** -0.5, x_t - scaled(step.alpha_bar**0.5, x0))


def v_target(x0: Tensor, eps: Tensor, step: Step) -> Tensor:
    """v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0, progressive distillation (2202.00512) appendix D."""
    return scaled(step.alpha_bar**0.5, eps) - scaled((1 - step.alpha_bar) ** 0.5, x0)


def x0_from_v(x_t: Tensor, v: Tensor, step: Step) -> Tensor:
    """x_0 = sqrt(alpha_bar) x_t - sqrt(1 - alpha_bar) v."""
    return scaled(step.alpha_bar**0.5, x_t) - scaled((1 - step.alpha_bar) ** 0.5, v)


def x0_from_posterior_mean(x_t: Tensor, mean: Tensor, step: Step) -> Tensor:
    """x_0 of which `mean` is the mean of q(x_s | x_t, x_0): DDPM eq. 7 solved for x_0."""
    towards_x0, towards_x_t = posterior_mean_weights(step)
    return scaled(1 / towards_x0, mean) - scaled(towards_x_t / towards_x0, x_t)


def eps_from_score(score: Tensor, step: Step) -> Tensor:
    """eps = -sqrt(1 - alpha_bar) grad log q(x_t), score SDE (2011.13456) with the variance-preserving kernel."""
    return scaled(-((1 - step.alpha_bar) ** 0.5), score)


def gaussian_kl(mean_1: Tensor, log_var_1: Tensor | float, mean_2: Tensor, log_var_2: Tensor | float) -> Tensor:
    """KL(N(mean_1, exp log_var_1) || N(mean_2, exp log_var_2)) of each element, nats; arguments broadcast."""
    log_ratio = torch.as_tensor(log_var_1 - log_var_2, dtype=mean_1.dtype, device=mean_1.device)
    precision_2 = torch.as_tensor(-log_var_2, dtype=mean_1.dtype, device=mean_1.device).exp()
    return 0.5 * (log_ratio.exp() - 1 - log_ratio + (mean_1 - mean_2) ** 2 * precision_2)
