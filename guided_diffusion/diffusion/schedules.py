"""Noise schedules: the published betas, subsets of their timesteps, and a schedule in continuous time."""

import math
from dataclasses import dataclass
from itertools import accumulate, repeat
from typing import Literal

import torch
from torch import Tensor

from .chain import DiffusionChain, Step, TrainingChain, step_a_sample

SIGNAL_RATES = (0.95, 0.02)
"""Signal rates of the offset cosine schedule at times 0 and 1: neither pure image nor pure noise."""

MOST_STEPS = 1_000_000
"""Noise levels of the longest chain: its tables take 16 MB, and networks distinguish its timesteps in float32."""


@dataclass(frozen=True, kw_only=True)
class ChainConfig:
    """The chain that a network is trained on."""

    schedule: Literal["linear", "cosine", "offset_cosine"] = "linear"
    """Betas: linear (DDPM; ADM from 128 pixels up) or cosine (improved DDPM; ADM at 64 pixels). offset_cosine is
    continuous in time, its signal rate falling from 0.95 to 0.02 as a cosine."""
    num_steps: int = 1000
    """Noise levels T in training; sampling may take fewer. In continuous time: the default number of levels."""
    rescale_t: bool = False
    """Tell the network t * 1000 / T in place of t, as improved DDPM does for its chains of 4000."""

    def __post_init__(self) -> None:
        if not 2 <= self.num_steps <= MOST_STEPS:
            limits = (
                f"at least 2 noise levels, and at most {MOST_STEPS:,} are computed (published chains have up to 4,000)"
            )
            raise ValueError(f"chain.num_steps is {self.num_steps}; a chain needs {limits}")
        if self.rescale_t and self.is_continuous:
            raise ValueError(
                f"chain.rescale_t is for numbered steps; a network on the {self.schedule} schedule is told its noise "
                f"rate, on the scale of 0 to 1000 already: leave it out"
            )

    @property
    def is_continuous(self) -> bool:
        """True if training draws its times from an interval; any number of levels can then be sampled."""
        return self.schedule == "offset_cosine"


def make_chain(config: ChainConfig) -> DiffusionChain:
    """The chain a config describes; of a schedule in continuous time, `num_steps` even levels."""
    if config.schedule == "offset_cosine":
        return offset_cosine_chain(config.num_steps)
    betas = {"linear": linear_betas, "cosine": cosine_betas}[config.schedule](config.num_steps)
    chain = chain_from_betas(betas)
    return DiffusionChain(chain.alpha_bar, chain.t * (1000 / config.num_steps)) if config.rescale_t else chain


def training_chain(config: ChainConfig) -> TrainingChain:
    """The source of training's links: the chain itself, or all of continuous time."""
    return OffsetCosine() if config.is_continuous else make_chain(config)


def sampling_chain(config: ChainConfig, spec: str) -> DiffusionChain:
    """The noise levels of a sampling run: those of the chain that `spec` keeps, as `timestep_subset` reads it.

    In continuous time "250" and "ddim250" both mean 250 even levels, and "" means `num_steps` of them.

    Raises:
        ValueError: sections in continuous time, and what `timestep_subset` refuses.
    """
    if not config.is_continuous:
        return (whole := make_chain(config)).shortened(timestep_subset(len(whole), spec))
    if "," in spec:
        raise ValueError(
            f'"{spec}" counts timesteps per section, but the {config.schedule} schedule is continuous in time and has '
            f'no numbered steps to cut into sections; give one count such as "250"'
        )
    return offset_cosine_chain(_count(spec.removeprefix("ddim"), spec) if spec else config.num_steps)


def linear_betas(num_steps: int) -> Tensor:
    """(T,) float64, evenly spaced from 1e-4 to 0.02 at T = 1000 (DDPM section 4); other T scale both ends by 1000 / T.

    Raises:
        ValueError: T below 20, where the last beta would exceed 1.
    """
    scale = 1000 / num_steps
    return _checked(torch.linspace(1e-4 * scale, 0.02 * scale, num_steps, dtype=torch.float64), "linear")


def cosine_betas(num_steps: int) -> Tensor:
    """(T,) float64, alpha_bar following cos^2 with offset 0.008, each beta at most 0.999 (improved DDPM eq. 17)."""

    def alpha_bar(time: float) -> float:
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - alpha_bar((i + 1) / num_steps) / alpha_bar(i / num_steps), 0.999) for i in range(num_steps)]
    return _checked(torch.tensor(betas, dtype=torch.float64), "cosine")


def _checked(betas: Tensor, name: str) -> Tensor:
    if bool(((betas <= 0) | (betas > 1)).any()):
        raise ValueError(
            f"a {name} schedule of {len(betas)} steps has betas from {float(betas.min()):.3g} to "
            f"{float(betas.max()):.3g}; a beta is a variance in (0, 1], so take more steps"
        )
    return betas


def chain_from_betas(betas: Tensor) -> DiffusionChain:
    """The chain with alpha_bar_t = prod_{i <= t} (1 - beta_i) and t = 0, 1, .., T - 1. betas: (T,) in (0, 1]."""
    alpha_bar = (1 - betas.double()).cumprod(dim=0)
    return DiffusionChain(alpha_bar=alpha_bar, t=torch.arange(len(betas), dtype=torch.float64))


def offset_cosine_angle(time: Tensor) -> Tensor:
    """The angle whose cosine is the signal rate and whose sine the noise rate, linear in time, 0..1; float64.

    With alpha_bar = cos^2 that is the cosine schedule of improved DDPM, its ends cut off at `SIGNAL_RATES`.
    """
    first, last = (math.acos(rate) for rate in SIGNAL_RATES)
    return first + (last - first) * time.double()


def offset_cosine_chain(num_steps: int) -> DiffusionChain:
    """Levels of the offset cosine schedule at the times (k + 1) / num_steps, so that the noisiest is time 1."""
    angle = offset_cosine_angle(torch.arange(1, num_steps + 1, dtype=torch.float64) / num_steps)
    return DiffusionChain(alpha_bar=angle.cos() ** 2, t=1000 * angle.sin())


@dataclass(frozen=True)
class OffsetCosine:
    """The offset cosine schedule in continuous time, as training draws from it.

    The timestep of networks is 1000 times the noise rate, on the scale of their time embedding.
    """

    def drawn(self, u: Tensor, *, like: Tensor) -> Step:
        """The links from the times u (B,) in [0, 1] straight to x_0, for a batch like `like` (B, ...).

        There is no neighbouring level: alpha_bar_prev is 1, and both log variances are that of x_t about its x_0.
        """
        angle = offset_cosine_angle(u)
        alpha_bar, log_var = angle.cos() ** 2, 2 * angle.sin().log()
        columns = [1000 * angle.sin(), alpha_bar, torch.ones_like(angle), log_var, log_var]
        return step_a_sample(torch.stack(columns), like=like)


def timestep_subset(num_steps: int, spec: str) -> Tensor:
    """The indices of a chain of `num_steps` that a shortened chain keeps: int64, increasing.

    spec: "250" spreads 250 over the whole chain, both ends included; "10,20,30" cuts the chain into that many equal
    sections and spreads the counts over them, noisiest last (improved DDPM, section 4); "ddim25" takes a whole stride
    from 0 on (DDIM, appendix D); "" keeps all.

    Raises:
        ValueError: a spec of another form, or one that this chain cannot satisfy.
    """
    if spec == "":
        return torch.arange(num_steps)
    if spec.startswith("ddim"):
        return _strided(num_steps, _count(spec.removeprefix("ddim"), spec))
    counts = [_count(part, spec) for part in spec.split(",")]
    size, longer = divmod(num_steps, len(counts))
    kept: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        length = size + (section < longer)
        kept += [start + offset for offset in _spread(length, count)]
        start += length
    return torch.tensor(sorted(set(kept)), dtype=torch.int64)


def _count(text: str, spec: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError(
            f'cannot read the timesteps "{spec}": give a count such as "250", counts per section such as '
            f'"10,20,30", or "ddim" and a count such as "ddim25"'
        )
    return int(text)


def _strided(num_steps: int, count: int) -> Tensor:
    if not 2 <= count <= num_steps:
        raise ValueError(
            f"asked for {count} sampling steps of a chain of {num_steps}; a whole stride takes 2 to {num_steps} of them"
        )
    lengths = {len(range(0, num_steps, stride)): stride for stride in reversed(range(1, num_steps))}
    if count not in lengths:
        nearest = sorted(lengths, key=lambda length: abs(length - count))[:2]
        raise ValueError(
            f"no whole stride takes exactly {count} of {num_steps} steps; the nearest counts that work are "
            f"{' and '.join(str(length) for length in sorted(nearest))}"
        )
    return torch.arange(0, num_steps, lengths[count])


def _spread(length: int, count: int) -> list[int]:
    if count > length:
        raise ValueError(
            f"asked for {count} sampling steps from a section of {length}; ask for fewer steps or train with a "
            f"longer chain"
        )
    # The stride is added up, not multiplied, and halves round to even: the published subsets depend on both.
    stride = (length - 1) / (count - 1) if count > 1 else 1.0
    return [round(offset) for offset in accumulate(repeat(stride, count - 1), initial=0.0)] if count else []
