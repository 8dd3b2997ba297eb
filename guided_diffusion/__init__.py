"""Class-conditional image generation by classifier-guided diffusion: the names that most programs need."""

from typing import TYPE_CHECKING, Any

from .diffusion.chain import DiffusionChain, Step
from .diffusion.denoiser import Estimate, NetworkDenoiser
from .diffusion.model import load_diffusion, load_upsampler
from .diffusion.noise import SeededNoise
from .diffusion.schedules import ChainConfig, make_chain, timestep_subset
from .guidance import (
    between,
    classifier_score,
    entropy_scaled_score,
    extrapolated,
    guided_at_estimate,
    guided_through,
    summed,
    tilted,
    within,
)
from .guidance.config import GuidanceConfig
from .models.unet import UNet, UNetConfig
from .samplers import ddim, ddim_reverse, ddpm

if TYPE_CHECKING:
    from .pipeline import GuidedDiffusion

__all__ = [
    "ChainConfig",
    "DiffusionChain",
    "Estimate",
    "GuidanceConfig",
    "GuidedDiffusion",
    "NetworkDenoiser",
    "SeededNoise",
    "Step",
    "UNet",
    "UNetConfig",
    "between",
    "classifier_score",
    "ddim",
    "ddim_reverse",
    "ddpm",
    "entropy_scaled_score",
    "extrapolated",
    "guided_at_estimate",
    "guided_through",
    "load_diffusion",
    "load_upsampler",
    "make_chain",
    "summed",
    "tilted",
    "timestep_subset",
    "within",
]


def __getattr__(name: str) -> Any:
    """GuidedDiffusion, once it is asked for: it brings sampling runs and classifiers, which import this package."""
    if name == "GuidedDiffusion":
        from .pipeline import GuidedDiffusion

        return GuidedDiffusion
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
