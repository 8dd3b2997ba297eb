"""Progress of a sampling run, summed over its processes."""

import sys
import time
from collections import Counter
from types import TracebackType
from typing import NoReturn

from torch import Tensor
from tqdm import tqdm

from ..diffusion.denoiser import Estimate
from ..distributed import Tally

IMAGES = "images"


class Progress:
    """A bar over the images of all processes, shown by one of them, and a line of sums at the end."""

    def __init__(
        self, tally: Tally, evaluations: Counter[str], *, total: int, name: str, is_shown: bool = True
    ) -> None:
        """evaluations: images evaluated by this process's networks, counted by them. total: images of all processes."""
        self._tally, self._evaluations, self._begin = tally, evaluations, time.monotonic()
        # Every image costs the same, so the mean rate since the beginning predicts best how long it will take.
        self._bar: tqdm[NoReturn] = tqdm(total=total, unit="img", desc=name, disable=not is_shown, smoothing=0)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()

    def step(self, k: int, x: Tensor, estimate: Estimate) -> None:
        """Show the steps left, as an `OnStep`: a batch can take minutes."""
        if not self._bar.disable and time.time() - self._bar.last_print_t > 1:
            self._bar.set_postfix(steps_left=k, refresh=False)
            self._count()
            self._bar.refresh()

    def made(self, images: int) -> None:
        """Add images that this process has made."""
        self._tally.add(IMAGES, images)
        self._count()

    def wait_for(self, name: str, total: int) -> None:
        """Return once a sum of the tally has come to `total`, showing the other processes' progress meanwhile."""
        while self._tally.total(name) < total:
            time.sleep(0.1)
            self._count()

    def _count(self) -> None:
        if not self._bar.disable:
            self._bar.update(self._tally.total(IMAGES) - self._bar.n)

    def hand_in(self) -> None:
        """Add this process's evaluations to those of the others."""
        for network, images in self._evaluations.items():
            self._tally.add(network, images)

    def report(self) -> None:
        """Print the sums and the rate, once every process has handed in."""
        images, seconds = self._tally.total(IMAGES), time.monotonic() - self._begin
        self._count()
        self._bar.close()
        if images:
            each = " and ".join(f"{self._tally.total(network) / images:.4g} {network}" for network in self._evaluations)
            rate = f"{images} images in {seconds:.1f} s, {images / seconds:.3g} images/s"
            print(f"{rate}; {each} evaluations an image", file=sys.stderr)
