"""Draw docs/book/figures/samplers.png: paths of the ancestral sampler and of DDIM through the density of x_t."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from guided_diffusion import ChainConfig, Estimate, SeededNoise, Step, ddim, ddpm, make_chain, timestep_subset

CENTRES, VAR = torch.tensor([-1.0, 1.0], dtype=torch.float64), 0.02
CHAIN = make_chain(ChainConfig())
SHORT = CHAIN.shortened(timestep_subset(1000, "250"))
PATHS = 12


def log_joint(x: Tensor, alpha_bar: float) -> Tensor:
    std = (alpha_bar * VAR + 1 - alpha_bar) ** 0.5
    return torch.distributions.Normal(alpha_bar**0.5 * CENTRES, std).log_prob(x.reshape(-1, 1))


def denoiser(x_t: Tensor, step: Step) -> Estimate:
    alpha_bar = float(step.alpha_bar)
    spread = alpha_bar * VAR + 1 - alpha_bar
    guesses = CENTRES + alpha_bar**0.5 * VAR / spread * (x_t.reshape(-1, 1) - alpha_bar**0.5 * CENTRES)
    return Estimate((log_joint(x_t, alpha_bar).softmax(1) * guesses).sum(1).reshape(x_t.shape), step.log_var_min)


def main() -> None:
    mpl.use("agg")
    x = torch.linspace(-3, 3, 241, dtype=torch.float64)
    density = torch.stack([log_joint(x, float(a)).exp().mean(dim=1) for a in SHORT.alpha_bar], dim=1)
    figure, panels = plt.subplots(1, 2, figsize=(9, 3), sharey=True, layout="constrained")
    for panel, (sampler, title) in zip(panels, ((ddpm, "ancestral (ddpm)"), (ddim, "DDIM")), strict=True):
        panel.pcolormesh(SHORT.t, x, density.clamp(max=0.6), cmap="Greys", vmax=1.0, shading="nearest", rasterized=True)
        noise = SeededNoise(3, range(PATHS))
        x_T = noise(torch.empty(PATHS, 1, 1, 1, dtype=torch.float64))
        states: list[Tensor] = [x_T.flatten()]

        def keep(k: int, x_t: Tensor, estimate: Estimate, states: list[Tensor] = states) -> None:
            states.append(x_t.flatten())

        sampler(denoiser, SHORT, x_T, noise, on_step=keep)
        times = torch.cat([SHORT.t.flip(0), torch.zeros(1, dtype=torch.float64)])
        panel.plot(times, torch.stack(states), linewidth=0.9)
        panel.set(title=title, xlabel="timestep t", xlim=(999, 0), ylim=(-3, 3))
    panels[0].set(ylabel="$x_t$")
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
