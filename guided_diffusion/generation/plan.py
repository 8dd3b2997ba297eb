"""Which samples a run makes: their shards, their seeds and their labels, each a function of the sample's id alone."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Samples 0 .. num_samples - 1 in shards; shard n holds ids [n * shard_size, (n + 1) * shard_size)."""

    num_samples: int
    shard_size: int
    labels: tuple[int, ...] | None
    """Sample i is asked to be of class labels[i mod len(labels)]; None: of no class."""

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
        return -1 if self.labels is None else self.labels[sample_id % len(self.labels)]


def parse_labels(spec: str, class_names: Sequence[str]) -> tuple[int, ...]:
    """The labels of "all", "3", "0,1,2" or "cat,dog"; a number is a label, not a name.

    Raises:
        ValueError: a class that is not there.
    """
    if spec == "all":
        return tuple(range(len(class_names)))
    return tuple(_parse_label(part.strip(), class_names) for part in spec.split(","))


def _parse_label(text: str, class_names: Sequence[str]) -> int:
    if text.isdecimal() and int(text) < len(class_names):
        return int(text)
    if text in class_names and not text.isdecimal():
        return list(class_names).index(text)
    shown = ", ".join(class_names[:10]) + (", .." if len(class_names) > 10 else "")
    raise ValueError(
        f'there is no label "{text}": the model has {len(class_names)} classes, labels 0 to {len(class_names) - 1} '
        f"({shown})"
    )
