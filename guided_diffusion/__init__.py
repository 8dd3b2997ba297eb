"""Class-conditional image generation by classifier-guided diffusion: the names that most programs need."""

from .chain import DiffusionChain, Step
from .guidance import between, classifier_score, extrapolated, summed, tilted, within
from .model import load_diffusion, load_upsampler
from .models.unet import UNet, UNetConfig
from .noise import SeededNoise
from .prediction import Estimate, NetworkDenoiser
from .sampling import ddim, ddim_reverse, ddpm
from .schedules import ChainConfig, make_chain, timestep_subset

__all__ = [
    "ChainConfig",
    "DiffusionChain",
    "Estimate",
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
    "extrapolated",
    "load_diffusion",
    "load_upsampler",
    "make_chain",
    "summed",
    "tilted",
    "timestep_subset",
    "within",
]
