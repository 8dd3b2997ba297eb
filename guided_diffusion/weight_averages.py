"""Averages of a network's weights over its training: their names, their profiles, and the one taken by default.

An average of constant decay is named "ema_0.9999". A power-function average (EDM2, 2312.02696 section 3.1) weighs the
weights of iteration tau in proportion to tau^gamma. It is named by its relative width, "ema_power_0.1": the standard
deviation of tau in that profile, as a share of the iterations so far.
"""

from collections.abc import Iterable
from functools import cache

POWER = "ema_power_"
"""Beginning of the names of power-function averages; their relative width follows."""

WIDEST = 12**-0.5
"""Relative width of the plain mean of all weights, gamma = 0; wider profiles would prefer the beginning."""


def slowest_average(names: Iterable[str]) -> str | None:
    """The average that is taken by default: the widest power-function one, else that of the largest decay.

    Power-function averages come first, since they hold nothing of the initial weights. None where no name is that of
    an average.
    """
    averages = [name for name in names if name.startswith("ema_")]
    return max(averages, key=lambda name: (name.startswith(POWER), _number(name)), default=None)


def check_widths(widths: tuple[float, ...], *, option: str) -> None:
    """Refuse relative widths that no power function has, or that name an average twice."""
    wrong = [width for width in widths if not 0 < width <= WIDEST]
    if wrong:
        raise ValueError(
            f"{option} are shares of the training between 0 and {WIDEST:.4f}, that of the plain mean of all weights, "
            f"such as 0.1; got {wrong[0]}"
        )
    if len(set(widths)) < len(widths):
        raise ValueError(f"{option} names an average twice: {widths}")


@cache
def exponent(width: float) -> float:
    """gamma of the profile tau^gamma of that relative width, at least 0 (2312.02696 section 3.1).

    tau / t has the density (gamma + 1) (tau / t)^gamma, whose variance is (gamma + 1) / ((gamma + 2)^2 (gamma + 3)).
    """
    low, high = 0.0, 1 / width  # the variance falls from gamma = 0 on, and is below 1 / (gamma + 1)^2
    while low < (middle := (low + high) / 2) < high:
        is_wider = (middle + 1) / ((middle + 2) ** 2 * (middle + 3)) > width**2
        low, high = (middle, high) if is_wider else (low, middle)
    return high


def decay(name: str, iteration: int) -> float:
    """beta of the update at the end of an iteration, from 1: average <- beta * average + (1 - beta) * weights.

    The products of these beta give the weights of iteration s the share that a power function's profile has on
    (s - 1, s], exactly.
    """
    return (1 - 1 / iteration) ** (exponent(_number(name)) + 1) if name.startswith(POWER) else _number(name)


def initial_share(name: str, iteration: int) -> float:
    """The share of the initial weights in an average."""
    return float(iteration == 0) if name.startswith(POWER) else _number(name) ** iteration


def _number(name: str) -> float:
    """The decay or the relative width in the name of an average."""
    return float(name.removeprefix(POWER).removeprefix("ema_"))
