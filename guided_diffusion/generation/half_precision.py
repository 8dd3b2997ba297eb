"""The precision of a sampling run: on a GPU the half precision that loses less, by measurement on the weights."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import cast, get_args

import torch
from torch import Tensor, nn

from ..data.formats.samples import MANIFEST_NAME, read_manifest
from ..diffusion.chain import DiffusionChain, Step
from ..diffusion.denoiser import Estimate, NetworkDenoiser
from ..diffusion.noise import SeededNoise
from ..models.precision import InPrecision, Precision, check_precision, exact_float32
from ..samplers import ddim
from .config import SamplingPrecision

LEVELS = 8
"""Noise levels of the trajectory on which precisions are compared."""
IMAGES = 4

_logger = logging.getLogger(__name__)

Bind = Callable[[nn.Module], NetworkDenoiser]
"""The denoiser of a network, with labels for `IMAGES` images."""


def sampling_precision(
    asked: SamplingPrecision,
    device: torch.device,
    *,
    directories: Iterable[Path] = (),
    measured: Callable[[], Precision],
) -> Precision:
    """The precision asked for; auto: float32 on CPUs, on GPUs that of the samples in `directories`, or `measured()`.

    Raises:
        ValueError: a precision that the device does not have.
    """
    if asked != "auto":
        check_precision(asked, device)
        return asked
    if device.type == "cpu":
        return "float32"
    for directory in directories:
        recorded = read_manifest(directory).get("precision") if (directory / MANIFEST_NAME).is_file() else None
        if recorded in get_args(Precision):
            return cast(Precision, recorded)
    return measured()


def least_lossy_half(
    network: nn.Module, bind: Bind, chain: DiffusionChain, shape: tuple[int, int, int], device: torch.device
) -> Precision:
    """Of float16 and, where the device has it, bfloat16, the one whose outputs are nearer to float32's.

    The outputs are compared along DDIM's way down the chain in float32, from noise to `IMAGES` images. float16 has
    three more bits than bfloat16, but overflows beyond 65,504, where its output is no number.
    """
    has_bfloat16 = device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
    halves: tuple[Precision, ...] = ("float16", "bfloat16") if has_bfloat16 else ("float16",)
    losses = dict(zip(halves, relative_losses(network, bind, chain, shape, device, halves), strict=True))
    best = min(losses, key=losses.__getitem__)
    named = ", ".join(f"{name} {loss:.2g}" for name, loss in losses.items())
    _logger.info("precision %s: relative differences of outputs from float32's are %s", best, named)
    return best


@torch.no_grad()
def relative_losses(
    network: nn.Module,
    bind: Bind,
    chain: DiffusionChain,
    shape: tuple[int, int, int],
    device: torch.device,
    precisions: Iterable[Precision],
) -> list[float]:
    """Root mean square differences of the outputs from float32's, over these; infinite where one overflows."""
    exact, others = bind(network), [bind(InPrecision(network, precision)).network for precision in precisions]
    errors, power = torch.zeros(len(others), device=device), torch.zeros((), device=device)

    def compared(x_t: Tensor, step: Step) -> Estimate:
        output = exact.network(x_t, step.t)
        for i, other in enumerate(others):
            errors[i] += (other(x_t, step.t) - output).square().mean()
        power.add_(output.square().mean())
        return replace(exact, network=lambda *_: output)(x_t, step)

    noise = SeededNoise(0, range(IMAGES))
    levels = torch.linspace(0, len(chain) - 1, min(LEVELS, len(chain)), dtype=torch.float64).round().long()
    with exact_float32():
        ddim(compared, chain.shortened(levels), noise(torch.empty(IMAGES, *shape, device=device)), noise)
    return (errors / power).sqrt().nan_to_num(nan=torch.inf).tolist()
