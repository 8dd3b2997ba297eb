"""The stored runs of diffusion arithmetic with a network that returns one fixed output (`diffusion_{A,B,C}`).

A: a linear chain of 1000. B: a cosine one shortened to 25. C: a linear one of 4000, shortened to 100, told t on the
scale of 1000.
"""

import torch
from oracles import golden

from guided_diffusion.diffusion.denoiser import NetworkDenoiser, Prediction, Variance, has_learned_variance
from guided_diffusion.diffusion.schedules import ChainConfig, make_chain, timestep_subset

PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "x_start": "x0", "previous_x": "mean"}
VARIANCES: dict[str, Variance] = {
    "learned": "learned",
    "learned_range": "learned_range",
    "fixed_small": "small",
    "fixed_large": "large",
}
CASES = [(mean, var) for mean in PREDICTIONS for var in VARIANCES]
"""Every pair of published names of a prediction and a variance."""


class StubNetwork:
    """One stored run: its chain, inputs and expected arrays, and the network that returns the stored output."""

    def __init__(self, name: str) -> None:
        config, self.arrays = golden.sidecar(f"diffusion_{name}"), golden.arrays(f"diffusion_{name}")
        chain = make_chain(
            ChainConfig(schedule=config["schedule"], num_steps=config["T"], rescale_t=config["rescale_timesteps"])
        )
        self.chain = chain.shortened(timestep_subset(config["T"], config["respacing"] or ""))
        self.x0, self.eps, self.x_t = (self.arrays[key] for key in ("x_start", "noise", "x_t"))
        self.step = self.chain.at(self.arrays["t"], like=self.x_t)

    def output(self, var: str) -> torch.Tensor:
        """The network's output under a published variance: learned ones have as many channels more."""
        return self.arrays["model_output"][:, : 6 if has_learned_variance(VARIANCES[var]) else 3]

    def denoiser(self, mean: str, var: str, *, clip: float | None) -> NetworkDenoiser:
        """The network under published names of prediction and variance."""
        return NetworkDenoiser(lambda x_t, t: self.output(var), PREDICTIONS[mean], VARIANCES[var], clip=clip)
