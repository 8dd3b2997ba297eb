"""Draw docs/book/figures/denoisers.png: the density of noised points at -1 and 1, and the best guess of x_0."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch

from guided_diffusion import ChainConfig, make_chain
from guided_diffusion.diffusion.chain import sigma

LEVELS = (50, 150, 300, 600)
VAR = 0.01


def main() -> None:
    mpl.use("agg")
    chain = make_chain(ChainConfig())
    x = torch.linspace(-3, 3, 601, dtype=torch.float64)
    centres = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for shade, k in zip(torch.linspace(0.15, 0.85, len(LEVELS)), LEVELS, strict=True):
        alpha_bar = float(chain.alpha_bar[k])
        spread = alpha_bar * VAR + 1 - alpha_bar
        log_joint = torch.distributions.Normal(alpha_bar**0.5 * centres, spread**0.5).log_prob(x[:, None])
        guesses = centres + alpha_bar**0.5 * VAR / spread * (x[:, None] - alpha_bar**0.5 * centres)
        drawn = {
            "color": plt.get_cmap("viridis")(float(shade)),
            "label": rf"t = {k}, $\sigma$ = {sigma(alpha_bar):.2g}",
        }
        left.plot(x, log_joint.exp().mean(dim=1), **drawn)
        right.plot(x, (log_joint.softmax(dim=1) * guesses).sum(dim=1), **drawn)
    left.set(xlabel="$x_t$", ylabel="density $q(x_t)$", ylim=(0, None))
    right.set(xlabel="$x_t$", ylabel=r"best guess $\hat x_0$")
    right.legend(frameon=False, fontsize=8)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
