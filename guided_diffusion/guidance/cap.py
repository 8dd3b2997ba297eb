"""Cap on the move of x_0 by guidance, of adaptive projected guidance (2410.02416)."""

import torch
from torch import Tensor

from ..diffusion.chain import Step, inverse_signal, scaled
from .score import ScoreTerm


def capped(term: ScoreTerm, cap: float) -> ScoreTerm:
    """`term`, shortened where it would tilt x_0 by more than `cap`, a root mean square over the sample's values.

    The paper's momentum and its projection across x_0 are left out: docs/guidance.md has their numbers.
    """

    def shortened(x_t: Tensor, step: Step) -> Tensor:
        score = term(x_t, step)
        move = scaled((1 - step.alpha_bar) * inverse_signal(step), score)
        length = move.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        return score * (cap / length.clamp(min=torch.finfo(length.dtype).tiny)).clamp(max=1)

    return shortened
