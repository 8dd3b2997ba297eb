"""The endless, seeded, resumable stream of training batches.

Sample number c of the stream (its `counter`) is element c mod N of epoch c // N's permutation, and iteration n consumes
samples [n * B, (n + 1) * B). Both are pure functions, so no loader state is ever saved: resuming is starting at
iteration n, and another number of processes or micro-batches cuts the same global batch differently.

A balanced stream goes through rounds of the K classes instead: round c // K has each class once, in an order of its
own, and takes the next image of it; a class's images come in the permutations of epochs of that class.
"""

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial

import torch
from torch import Tensor

from .config import check_num_workers
from .decoder import x0_of
from .image_set import ImageSet
from .workers import read_in_workers

Entry = tuple[int, int]  # index into the images, counter


@dataclass(frozen=True)
class Batch:
    """Training samples. Everything random about a sample is seeded from its `counter`, its position in the stream."""

    x0: Tensor
    """(B, C, H, W) float32 in [-1, 1]."""
    y: Tensor
    """(B,) int64 labels, or (B, K) float32 numbers of a table."""
    counter: Tensor
    """(B,) int64 positions in the endless stream."""

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on `device`; copies from pinned memory are asynchronous."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in (self.x0, self.y, self.counter)))

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory. DataLoader calls it by this name."""
        return Batch(self.x0.pin_memory(), self.y.pin_memory(), self.counter.pin_memory())


@dataclass(frozen=True)
class EndlessBatches:
    """An endless stream over a training set: every epoch has its own permutation, and no batch is short."""

    images: ImageSet
    batch_size: int = field(kw_only=True)
    """Samples per optimiser update, over all processes and micro-batches; may exceed the dataset."""
    seed: int = field(kw_only=True)
    """Of the permutations, and with a sample's counter of its crop and mirror: no sample depends on the process that
    makes it, or when."""
    num_workers: int = field(kw_only=True)
    """Decoding processes beside this one; 0 decodes in this one."""

    balanced: bool = field(default=False, kw_only=True)
    """Classes are drawn equally often, whatever their numbers of images."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"the global batch is at least 1 sample, not {self.batch_size}")
        check_num_workers(self.num_workers)
        if self.balanced:
            _refuse_without_classes(self.images)

    def micro_batches(
        self, *, start_iteration: int = 0, rank: int = 0, world_size: int = 1, micro_size: int | None = None
    ) -> Iterator[Batch]:
        """For each iteration from the given one on, this rank's share of the batch, at most `micro_size` at a time.

        The global batch is cut into consecutive blocks, one per rank, and each of these into micro-batches, of which
        the last may be short; None: a block is one. Drop the iterator to end the workers.

        Raises:
            ValueError: at once, if the batch does not divide or an argument is out of range; while iterating, as
                reading the images raises it in whichever process. OSError likewise.
        """
        if start_iteration < 0 or not 0 <= rank < world_size:
            raise ValueError(
                f"start_iteration={start_iteration}, rank={rank}, world_size={world_size}: "
                f"iterations count from 0, ranks from 0 to world_size - 1"
            )
        if micro_size is not None and micro_size < 1:
            raise ValueError(f"a micro-batch is at least 1 sample, not {micro_size}")
        share = self.share(world_size)
        entries = self._entries(start_iteration * self.batch_size + rank * share, share, micro_size or share)
        read = partial(_read_batch, self.images, self.seed)
        return read_in_workers(read, entries, num_workers=self.num_workers, pin_memory=torch.cuda.is_available())

    def share(self, world_size: int) -> int:
        """Samples of one process per iteration; a batch that does not divide over the processes is refused."""
        below = self.batch_size // world_size * world_size
        if below != self.batch_size:
            nearest = " or ".join(str(size) for size in (below, below + world_size) if size)
            raise ValueError(
                f"a global batch of {self.batch_size} does not divide over {world_size} processes; the nearest that "
                f"does: {nearest} (--training.batch.size)"
            )
        return self.batch_size // world_size

    def _entries(self, first: int, share: int, micro_size: int) -> Iterator[list[Entry]]:
        """The entries of each micro-batch of the process whose samples begin at the counter `first`."""
        index = balanced_order(self.images.labels, seed=self.seed) if self.balanced else self._index
        for begin in itertools.count(first, self.batch_size):
            counters = range(begin, begin + share)
            for start in range(0, share, micro_size):
                yield [(index(counter), counter) for counter in counters[start : start + micro_size]]

    def _index(self, counter: int) -> int:
        epoch, position = divmod(counter, len(self.images))
        return int(epoch_permutation(len(self.images), seed=self.seed, epoch=epoch)[position])


def _refuse_without_classes(images: ImageSet) -> None:
    """Refuse to balance images that are not all of two classes or more."""
    labels = images.labels
    unlabelled = labels.ndim > 1 or bool((labels < 0).any())
    if unlabelled or len(labels.unique()) < 2:
        found = "have no classes" if unlabelled else "are of one class"
        raise ValueError(
            f"--data.balance draws classes equally often, and the images of {images.path} {found}; leave it out, or "
            f"give --data.labels"
        )


def balanced_order(labels: Tensor, *, seed: int) -> Callable[[int], int]:
    """The index of the image at each position of a balanced stream. labels: (N,) int64, not negative."""
    members = [part for part in labels.argsort(stable=True).split(labels.bincount().tolist()) if len(part)]
    permutation = lru_cache(maxsize=2 * len(members) + 2)(_permutation)

    def index(counter: int) -> int:
        number, place = divmod(counter, len(members))
        of = int(permutation(len(members), f"{seed}:round:{number}")[place])
        epoch, position = divmod(number, len(members[of]))
        return int(members[of][permutation(len(members[of]), f"{seed}:class {of}:{epoch}")[position]])

    return index


@lru_cache(maxsize=2)
def epoch_permutation(dataset_size: int, *, seed: int, epoch: int) -> Tensor:
    """(dataset_size,) int64: the order of one epoch, a function of its arguments alone. Cached: do not write to it."""
    return _permutation(dataset_size, f"{seed}:{epoch}")


def _permutation(size: int, key: str) -> Tensor:
    # Hashed, because with seed + epoch two runs with neighbouring seeds would share nearly all of their epochs.
    digest = hashlib.sha256(key.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
    return torch.randperm(size, generator=generator)


def _read_batch(images: ImageSet, seed: int, entries: Sequence[Entry]) -> Batch:
    x0 = [x0_of(images.augmented(index, sample_rng(seed, counter))) for index, counter in entries]
    indices, counters = zip(*entries, strict=True)
    return Batch(torch.stack(x0), images.labels[list(indices)], torch.tensor(counters))


def sample_rng(seed: int, counter: int) -> random.Random:
    """The generator of a sample's crop and mirror."""
    return random.Random(f"{seed}:{counter}")  # a string is hashed whole, so that neighbours are unrelated
