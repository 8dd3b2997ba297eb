"""Draw docs/book/figures/likelihood.png: the bound of Gaussian images by an exact model, summed along the chain."""

import math
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch

from guided_diffusion import ChainConfig, Estimate, SeededNoise, make_chain
from guided_diffusion.diffusion.chain import posterior_mean_weights, q_sample
from guided_diffusion.diffusion.losses import bound_term, prior_bound

STD = 0.3
COUNT = 400


def main() -> None:
    mpl.use("agg")
    noise = SeededNoise(0, range(COUNT))
    x0 = (noise(torch.empty(COUNT, 1, 8, 8, dtype=torch.float64)) * STD).clamp(-1, 1).mul(127.5).round() / 127.5
    density = torch.distributions.Normal(0.0, STD)
    levels = torch.arange(-128, 128, dtype=torch.float64) / 127.5
    mass = (density.cdf(levels + 0.5 / 127.5) - density.cdf(levels - 0.5 / 127.5)).clamp(min=1e-300)
    entropy = float(-(mass * mass.log()).sum()) / math.log(2)
    figure, axis = plt.subplots(figsize=(6, 2.8), layout="constrained")
    for schedule in ("linear", "cosine"):
        chain = make_chain(ChainConfig(schedule=schedule))
        terms: list[float] = []
        for k in range(len(chain)):
            step = chain.at(k, like=x0)
            x_t = q_sample(x0, noise(x0), step)
            gain = step.alpha_bar**0.5 * STD**2 / (step.alpha_bar * STD**2 + 1 - step.alpha_bar)
            left_open = (
                STD**2 * (1 - step.alpha_bar) / (step.alpha_bar * STD**2 + 1 - step.alpha_bar)
            )  # of x_0 given x_t
            towards_x0, _ = posterior_mean_weights(step)
            exact = towards_x0**2 * left_open + (math.exp(step.log_var_min) if k > 0 else 0.0)
            terms.append(float(bound_term(Estimate(gain * x_t, math.log(exact)), x0, x_t, step).mean()))
        total = torch.tensor(terms).cumsum(0) + prior_bound(x0, float(chain.alpha_bar[-1])).mean()
        axis.plot(chain.t, total, label=f"{schedule}: {float(total[-1]):.2f} bits")
    axis.axhline(entropy, color="black", linestyle="--", linewidth=1, label=f"entropy: {entropy:.2f} bits")
    axis.set(
        xlabel="terms up to timestep t", ylabel="bits per dimension", xscale="symlog", xlim=(0, 999), ylim=(0, None)
    )
    axis.legend(frameon=False)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
