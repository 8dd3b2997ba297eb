"""Randomness that belongs to a sample, not to a batch or a process.

Every sample has its own generator, seeded from the run's seed and the sample's number alone, so its noise is the same
whatever the batch size, the order and the number of processes.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from .chain import broadcast_like

_LOW_32_BITS = 0xFFFFFFFF
_PARTICLES = 1 << 24
"""Particles, and the choice among them, have seeds of their own, beyond those of labels and of upsamplers' stages."""


class Noise(Protocol):
    """A source of standard normal noise."""

    def __call__(self, like: Tensor) -> Tensor:
        """A fresh draw of like's shape, dtype and device."""
        ...


class SeededNoise:
    """One generator per sample, on the CPU, so that noise does not depend on the device.

    Drawn in float32 and in (C, H, W) order, for any dtype and memory format of the images.
    """

    def __init__(self, seed: int, ids: Iterable[int]) -> None:
        """ids: the samples' numbers, in batch order; their generators are seeded by `sample_seed(seed, id)`."""
        self.generators = [torch.Generator().manual_seed(sample_seed(seed, i)) for i in ids]

    @classmethod
    def of_particles(cls, seed: int, ids: Sequence[int], count: int) -> "SeededNoise":
        """Noise of `count` particles of each sample, in a row; the first has the sample's own."""
        noise = cls(seed, ())
        noise.generators = [
            torch.Generator().manual_seed(sample_seed(_particle_seed(seed, particle), i))
            for i in ids for particle in range(count)
        ]  # fmt: skip
        return noise

    def __call__(self, like: Tensor) -> Tensor:
        """Standard normal (B, ...) of like's shape, dtype and device, row i from sample i's generator.

        Raises:
            ValueError: a batch of another size than the ids given.
        """
        if like.shape[0] != len(self.generators):
            raise ValueError(f"noise was seeded for {len(self.generators)} samples, but the batch has {like.shape[0]}")
        noise = torch.empty(like.shape, dtype=torch.float32, pin_memory=like.is_cuda)
        for sample, generator in zip(noise.unbind(), self.generators, strict=True):
            sample.normal_(generator=generator)
        return broadcast_like(noise, like).to(like.dtype)

    def uniform(self) -> Tensor:
        """(B,) float64 in [0, 1), one from each sample's generator."""
        return torch.stack([torch.rand((), generator=one, dtype=torch.float64) for one in self.generators])


def particle_choices(seed: int, ids: Iterable[int]) -> SeededNoise:
    """Source of the draws among particles: its `uniform` gives one for each sample."""
    return SeededNoise(seed ^ _PARTICLES << 32, ids)


def _particle_seed(seed: int, particle: int) -> int:
    return seed if particle == 0 else seed ^ (_PARTICLES + particle) << 32


def sample_seed(seed: int, sample_id: int) -> int:
    """The 32-bit seed of one sample's generator.

    torch's CPU generator uses 32 bits of its seed, so hashing would give two of 50,000 samples the same noise with
    probability 0.25. This is a bijection of the id instead: no two ids below 2^32 share a seed.
    """
    return _mix32(_mix32(seed & _LOW_32_BITS ^ _mix32(seed >> 32 & _LOW_32_BITS)) + sample_id & _LOW_32_BITS)


def _mix32(x: int) -> int:
    """An invertible scrambling of 32 bits (xor-shifts and odd multipliers are each invertible)."""
    for multiplier in (0x7FEB352D, 0x846CA68B):
        x = (x ^ x >> 16) * multiplier & _LOW_32_BITS
    return x ^ x >> 15
