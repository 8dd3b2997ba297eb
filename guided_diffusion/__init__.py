"""Class-conditional image generation by classifier-guided diffusion: the public names.

A name is imported when it is first used, so that `import guided_diffusion` itself is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .diffusion.chain import DiffusionChain, Step
    from .diffusion.denoiser import Estimate, NetworkDenoiser
    from .diffusion.model import load_diffusion, load_upsampler
    from .diffusion.noise import SeededNoise
    from .diffusion.schedules import ChainConfig, make_chain, timestep_subset
    from .guidance import (
        at_estimate,
        between,
        classifier_score,
        clean_log_density,
        entropy_scaled_score,
        extrapolated,
        guided_at_estimate,
        guided_through,
        noisy,
        score_of,
        summed,
        through_network,
        tilted,
        within,
    )
    from .guidance.config import GuidanceConfig
    from .models.unet import UNet, UNetConfig
    from .pipeline import GuidedDiffusion
    from .samplers import SamplerConfig, ddim, ddim_reverse, ddpm

__version__ = "0.6.0"

_MODULES = (
    "diffusion.chain", "diffusion.denoiser", "diffusion.model", "diffusion.noise", "diffusion.schedules", "guidance",
    "guidance.config", "models.unet", "samplers", "pipeline",
)  # fmt: skip
__all__ = [
    "ChainConfig", "DiffusionChain", "Estimate", "GuidanceConfig", "GuidedDiffusion", "NetworkDenoiser",
    "SamplerConfig", "SeededNoise", "Step", "UNet", "UNetConfig", "at_estimate", "between", "classifier_score",
    "clean_log_density", "ddim", "ddim_reverse", "ddpm", "entropy_scaled_score", "extrapolated", "guided_at_estimate",
    "guided_through", "load_diffusion", "load_upsampler", "make_chain", "noisy", "score_of", "summed",
    "through_network", "tilted", "timestep_subset", "within",
]  # fmt: skip


def __getattr__(name: str) -> Any:  # names of many types
    if name in __all__:
        modules = (import_module(f".{module}", __name__) for module in _MODULES)
        return next(getattr(module, name) for module in modules if hasattr(module, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
