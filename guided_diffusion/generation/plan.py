"""Which samples a run makes: their shards and their labels, each a function of the sample's id alone."""

from collections.abc import Iterator
from dataclasses import dataclass

from .label_rules import LabelRule


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Samples 0 .. num_samples - 1 in shards; shard n holds ids [n * shard_size, (n + 1) * shard_size)."""

    num_samples: int
    shard_size: int
    labels: LabelRule | None
    """Which class each sample is asked to be of; None: of none."""

    def __post_init__(self) -> None:
        for name in ("num_samples", "shard_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def ids(self, shard: int) -> range:
        """The ids of one shard; the last shard may hold fewer."""
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, self.num_samples))

    def label(self, sample_id: int) -> int:
        """The class that a sample is asked to be of, -1 for none."""
        return -1 if self.labels is None else self.labels.label(sample_id)


def cut(ids: range, size: int) -> Iterator[range]:
    """Consecutive ids in runs of `size`; the last may be shorter."""
    return (ids[start : start + size] for start in range(0, len(ids), size))
