"""Draw docs/book/figures/chain.png: a digit along the linear and the cosine chain, and their signal power."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits

from guided_diffusion import ChainConfig, make_chain
from guided_diffusion.diffusion.chain import q_sample

LEVELS = (0, 50, 150, 300, 450, 600, 750, 999)


def main() -> None:
    mpl.use("agg")
    digits, _ = load_digits(return_X_y=True)
    digit = torch.tensor(digits[13]).reshape(8, 8) / 8 - 1
    x0, eps = digit[None, None], torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    figure = plt.figure(figsize=(8, 4), layout="constrained")
    grid = figure.add_gridspec(3, len(LEVELS), height_ratios=(1, 1, 1.6))
    curves = figure.add_subplot(grid[2, :])
    for row, schedule in enumerate(("linear", "cosine")):
        chain = make_chain(ChainConfig(schedule=schedule))
        for column, k in enumerate(LEVELS):
            panel = figure.add_subplot(grid[row, column])
            panel.imshow(q_sample(x0, eps, chain.at(k, like=x0))[0, 0], cmap="gray", vmin=-1.5, vmax=1.5)
            panel.set(xticks=[], yticks=[], title=f"t = {k}" if row == 0 else "")
            panel.set_ylabel(schedule if column == 0 else "")
        curves.plot(chain.t, chain.alpha_bar, label=f"{schedule}")
    curves.set(xlabel="timestep t", ylabel=r"signal power $\bar\alpha_t$", xlim=(0, 999), ylim=(0, 1))
    curves.legend(frameon=False)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
