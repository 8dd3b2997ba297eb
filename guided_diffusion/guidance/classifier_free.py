"""Classifier-free guidance and autoguidance: extrapolation from one denoiser past another."""

from dataclasses import replace

from torch import Tensor

from ..diffusion.chain import Step
from ..diffusion.denoiser import Denoiser, Estimate


def extrapolated(main: Denoiser, reference: Denoiser, weight: float) -> Denoiser:
    """D_ref + weight * (D_main - D_ref): classifier-free guidance (2207.12598) with an unconditional reference,
    autoguidance (2406.02507) with a weaker one. weight 1 has the x_0 of `main`; the variance is main's.

    The first paper's own weight is one less: it counts from the conditional model. Nothing is clipped, and clipped
    estimates are extrapolated out of range: give denoisers without a clip and put `bounded` around the result.
    """

    def guided(x_t: Tensor, step: Step) -> Estimate:
        estimate, x0_ref = main(x_t, step), reference(x_t, step).x0
        return replace(estimate, x0=x0_ref + weight * (estimate.x0 - x0_ref), mean=None)

    return guided
