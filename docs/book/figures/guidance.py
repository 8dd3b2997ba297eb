"""Draw docs/book/figures/guidance.png: guided samples of a class on a line, and the density that was asked for."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from guided_diffusion import (
    ChainConfig,
    Estimate,
    SeededNoise,
    Step,
    classifier_score,
    ddpm,
    make_chain,
    timestep_subset,
)
from guided_diffusion.guidance.classifier import class_log_density
from guided_diffusion.guidance.twist import Twist
from guided_diffusion.samplers.ddpm import ancestral_link
from guided_diffusion.samplers.particles import ParticleFilter

CENTRES, STDS, WEIGHTS = torch.tensor([[-1.6, 0.0, 1.1], [0.3, 0.3, 0.4], [0.4, 0.3, 0.3]], dtype=torch.float64)
CLASSES = torch.tensor([0, 1, 0])
CHAIN = make_chain(ChainConfig())
SHORT = CHAIN.shortened(timestep_subset(1000, "250"))
COUNT, PARTICLES = 20_000, 16


def log_joint(x: Tensor, alpha_bar: float) -> Tensor:
    """(B, 3) log of a clump's share times its density at x_t."""
    std = (alpha_bar * STDS**2 + 1 - alpha_bar) ** 0.5
    return torch.distributions.Normal(alpha_bar**0.5 * CENTRES, std).log_prob(x.reshape(-1, 1)) + WEIGHTS.log()


def denoiser(x_t: Tensor, step: Step) -> Estimate:
    alpha_bar = float(step.alpha_bar)
    spread = alpha_bar * STDS**2 + 1 - alpha_bar
    guesses = CENTRES + alpha_bar**0.5 * STDS**2 / spread * (x_t.reshape(-1, 1) - alpha_bar**0.5 * CENTRES)
    x0 = (log_joint(x_t, alpha_bar).softmax(dim=1) * guesses).sum(dim=1)
    return Estimate(x0.reshape(x_t.shape), step.log_var_min)


def log_prob(x_t: Tensor, t: Tensor) -> Tensor:
    """(B, 2) the exact classifier of noised points."""
    joint = log_joint(x_t, float(CHAIN.alpha_bar[int(t[0])]))
    by_class = [joint[:, y == CLASSES].logsumexp(dim=1) for y in (0, 1)]
    return torch.stack(by_class, dim=1).log_softmax(dim=1)


def particles(scale: float) -> Tensor:
    """Samples by exact guidance, in blocks that fit into memory."""
    y = torch.zeros(COUNT // 10, dtype=torch.int64).repeat_interleave(PARTICLES)
    twist = Twist(((class_log_density(log_prob, y), scale),))
    chunks: list[Tensor] = []
    for chunk in range(10):
        generator = torch.Generator().manual_seed(chunk)

        def noise(like: Tensor, generator: torch.Generator = generator) -> Tensor:
            return torch.randn(like.shape, dtype=like.dtype, generator=generator)

        def choices(generator: torch.Generator = generator) -> Tensor:
            return torch.rand(COUNT // 10, dtype=torch.float64, generator=generator)

        x_T = noise(torch.empty(len(y), 1, 1, 1, dtype=torch.float64))
        drawn = ParticleFilter(ancestral_link, PARTICLES)(denoiser, SHORT, x_T, noise, twist=twist, choices=choices)
        chunks.append(drawn.x_0.flatten())
    return torch.cat(chunks)


def guided(scale: float) -> Tensor:
    noise = SeededNoise(0, range(COUNT))
    x_T = noise(torch.empty(COUNT, 1, 1, 1, dtype=torch.float64))
    term = classifier_score(log_prob, torch.zeros(COUNT, dtype=torch.int64), scale=scale)
    return ddpm(denoiser, SHORT, x_T, noise, mean_shift=term).flatten()


def main() -> None:
    mpl.use("agg")
    x = torch.linspace(-3.2, 3.2, 1281, dtype=torch.float64)
    figure, panels = plt.subplots(1, 3, figsize=(9, 2.6), sharey=True, layout="constrained")
    drawn = ((1.0, guided(1.0), "s = 1"), (4.0, guided(4.0), "s = 4"), (4.0, particles(4.0), "s = 4, 16 particles"))
    for panel, (scale, samples, title) in zip(panels, drawn, strict=True):
        log_wanted = log_joint(x, 1.0).logsumexp(dim=1) + scale * log_prob(x, torch.zeros(1))[:, 0]
        wanted = log_wanted.exp() / torch.trapezoid(log_wanted.exp(), x)
        panel.hist(samples, bins=120, range=(-3.2, 3.2), density=True, color="tab:blue", alpha=0.45)
        panel.plot(x, wanted, color="black", linewidth=1.2)
        panel.set(title=title, xlabel="$x_0$", xlim=(-3.2, 3.2))
        middle = 0.0
        left = float(torch.trapezoid(wanted[x < middle], x[x < middle]))
        print(f"{title}: {float((samples < middle).double().mean()):.3f} left of 0, wanted {left:.3f}")
    panels[0].set(ylabel="density")
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
