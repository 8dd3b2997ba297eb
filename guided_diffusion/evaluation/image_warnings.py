"""Warnings about the images of an evaluation: images of one colour, copies, and images that both sides have."""

from collections.abc import Iterator

import torch
from torch import Tensor

from .measure import CONSTANT, MeasuredSet

MOST = 0.01
"""Share of a set's images beyond which a warning is given."""


def image_warnings(generated: MeasuredSet, real: MeasuredSet) -> Iterator[str]:
    """A sentence for each reason to doubt the images, as far as fingerprints tell."""
    for name, measured in (("generated", generated), ("real", real)):
        if measured.fingerprints is not None:
            yield from _warnings_of_set(name, measured.fingerprints)
    if generated.fingerprints is not None and real.fingerprints is not None:
        varied = generated.fingerprints[generated.fingerprints != CONSTANT]
        yield from _warning(
            int(torch.isin(varied, real.fingerprints).sum()), len(generated.fingerprints),
            "generated images are copies of real ones, to the byte: the sets overlap, or the model repeats its "
            "training data",
        )  # fmt: skip


def _warnings_of_set(name: str, fingerprints: Tensor) -> Iterator[str]:
    is_constant, count = fingerprints == CONSTANT, len(fingerprints)
    why = "sampling may have failed" if name == "generated" else "files may be damaged, or read with the wrong values"
    yield from _warning(int(is_constant.sum()), count, f"{name} images are of one colour: {why}")
    varied = fingerprints[~is_constant]
    copies = len(varied) - len(varied.unique())
    yield from _warning(copies, count, f"{name} images are copies of others of the set, and count as often")


def _warning(found: int, count: int, text: str) -> Iterator[str]:
    if found > MOST * count:
        yield f"{found:,} of the {count:,} {text}"
