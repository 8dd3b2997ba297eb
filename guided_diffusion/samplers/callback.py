"""What a sampler tells whoever watches it."""

from collections.abc import Callable

from torch import Tensor

from ..diffusion.denoiser import Estimate

OnStep = Callable[[int, Tensor, Estimate], None]
"""(k, x, estimate) after the link at index k: the new state and the estimate it was made from."""
