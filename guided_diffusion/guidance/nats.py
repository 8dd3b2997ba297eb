"""Guidance in nats: the divergence of guided paths from unguided ones."""

from torch import Tensor

from ..diffusion.chain import Step
from ..diffusion.denoiser import Estimate, link_variance
from .score import ScoreTerm
from .twist import squared


class NatsMeter:
    """1/2 term.S.term at each link of a guided path, S being the variance of the model's own p(x_s | x_t).

    Over a path it sums to KL(guided || unguided) of the two laws of paths (Girsanov), exactly for the ancestral sampler
    with a mean shift. Other samplers are measured by the ancestral links between the same levels, so that numbers
    compare. With exact score and classifier and scale 1 it is the mean of log p(y | x_0) / p(y), at most log 1 / p(y).
    The last link, which draws no noise, is left out. A link that is taken repeatedly counts each time.
    """

    def __init__(self) -> None:
        self._term: Tensor | None = None
        self._last: int | None = None
        self.by_level: list[Tensor] = []
        """(B,) float64 nats of each link but the last, the noisiest first."""

    def metered(self, term: ScoreTerm) -> ScoreTerm:
        """`term`, whose first value in each link is remembered."""

        def measured(x_t: Tensor, step: Step) -> Tensor:
            value = term(x_t, step)
            self._term = value if self._term is None else self._term
            return value

        return measured

    def on_step(self, k: int, x: Tensor, estimate: Estimate) -> None:
        """Count the nats of the link at index k, as an `OnStep`."""
        if k > 0 and self._term is not None:
            before = self.by_level.pop() if k == self._last else 0.0
            self.by_level.append(before + 0.5 * squared(self._term, link_variance(estimate)))
        self._term, self._last = None, k
