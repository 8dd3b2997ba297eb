"""The objective of upsamplers (ADM section 5.2): a diffusion objective conditioned on each image's reduction."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from ..data.batches import Batch
from ..diffusion.chain import broadcast_like, diffused
from ..diffusion.noise import SeededNoise
from .diffusion_objective import DiffusionObjective
from .objective import Losses


@dataclass(frozen=True)
class UpsamplerObjective:
    """The diffusion objective of a network that sees x_0 in low resolution."""

    diffusion: DiffusionObjective
    low_res_size: int
    conditioning_noise: float | None = None
    """Largest noise rate of the low-resolution images; None: they are clean."""

    def __call__(self, network: Callable[..., Tensor], batch: Batch, noise: SeededNoise) -> Losses:
        """As of `DiffusionObjective`."""
        low_res = area_reduced(batch.x0, self.low_res_size)
        conditioned = partial(network, low_res=low_res)
        if self.conditioning_noise is not None:
            rate = broadcast_like(self.conditioning_noise * noise.uniform(), low_res)
            noised = diffused(low_res, noise(low_res), alpha_bar=1 - rate.reshape(-1, 1, 1, 1) ** 2)
            conditioned = partial(network, low_res=noised, conditioning_noise=rate.to(low_res.dtype))
        return self.diffusion(conditioned, batch, noise)


def area_reduced(x0: Tensor, size: int) -> Tensor:
    """Means over areas, (B, C, size, size) of (B, C, H, W), as published: neither quantised nor blurred nor noised."""
    return F.interpolate(x0, size=(size, size), mode="area")
