"""How often a network is asked: what a sampler costs, in the unit that papers compare."""

from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Counted(Generic[P, R]):
    """A denoiser, a score term, a network or a classifier that counts its calls, each of a whole batch.

    Around a denoiser before it is guided it counts the diffusion network's evaluations, and around a classifier's
    function the classifier's: not at scale 0 and, within an interval, inside alone.
    """

    def __init__(self, function: Callable[P, R]) -> None:
        self.function = function
        self.calls = 0

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """What the function returns."""
        self.calls += 1
        return self.function(*args, **kwargs)
