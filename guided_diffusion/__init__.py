"""Class-conditional image generation by classifier-guided diffusion: the names that most programs need."""

from typing import TYPE_CHECKING, Any

from .chain import DiffusionChain, Step
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
from .guide import GuidanceConfig
from .model import load_diffusion, load_upsampler
from .models.unet import UNet, UNetConfig
from .noise import SeededNoise
from .prediction import Estimate, NetworkDenoiser
from .sampling import ddim, ddim_reverse, ddpm
from .schedules import ChainConfig, make_chain, timestep_subset

if TYPE_CHECKING:
    from .api import GuidedDiffusion

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
        from .api import GuidedDiffusion

        return GuidedDiffusion
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
