"""Draw docs/book/figures/training.png: the least possible loss by timestep for points at -1 and 1."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch

from guided_diffusion import ChainConfig, make_chain

VAR = 0.01


def least_errors(alpha_bar: float) -> tuple[float, float]:
    """E Var[eps | x_t] and E Var[x_0 | x_t], by integration over x_t."""
    x = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    centres = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    spread = alpha_bar * VAR + 1 - alpha_bar
    log_joint = torch.distributions.Normal(alpha_bar**0.5 * centres, spread**0.5).log_prob(x[:, None])
    guesses = centres + alpha_bar**0.5 * VAR / spread * (x[:, None] - alpha_bar**0.5 * centres)
    p = log_joint.softmax(dim=1)
    mean = (p * guesses).sum(dim=1)
    var = (p * (guesses - mean[:, None]) ** 2).sum(dim=1) + VAR * (1 - alpha_bar) / spread
    error = float(torch.trapezoid(log_joint.exp().mean(dim=1) * var, x))
    return alpha_bar / (1 - alpha_bar) * error, error


def main() -> None:
    mpl.use("agg")
    chain = make_chain(ChainConfig())
    ks = range(0, 1000, 5)
    errors = torch.tensor([least_errors(float(chain.alpha_bar[k])) for k in ks])
    figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
    for column, name in enumerate(("eps", "x0")):
        axis.plot(chain.t[:: ks.step], errors[:, column], label=name)
    axis.set(xlabel="timestep t", ylabel="least squared error", xlim=(0, 999), ylim=(0, None))
    axis.legend(frameon=False)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
