"""Samplers: one short file each, put together in `config`."""

from .config import SamplerConfig, SamplerName, make_sampler
from .ddim import ddim, ddim_reverse
from .ddpm import ddpm
from .dpmpp import dpmpp_2m, dpmpp_2m_sde, dpmpp_2s
from .heun import heun
from .langevin import langevin, predictor_corrector
from .repaint import repaint
from .sampler import OnStep, Sampler, guided_sampler
from .unipc import unipc

__all__ = [
    "OnStep",
    "Sampler",
    "SamplerConfig",
    "SamplerName",
    "ddim",
    "ddim_reverse",
    "ddpm",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_2s",
    "guided_sampler",
    "heun",
    "langevin",
    "make_sampler",
    "predictor_corrector",
    "repaint",
    "unipc",
]
