"""The plan of a run: shards and labels of its samples, each a function of the sample's id alone."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import file_sha256
from ..config import check_at_least
from ..data.formats import open_stored
from ..data.formats.storage import NO_LABEL
from ..data.labels import class_name, parse_label, parse_labels
from ..diffusion.noise import SeededNoise, sample_seed
from ..samplers import OnStep
from .guidance_statistics import GuidanceStatistics

_POLICIES = ("all", "balanced", "uniform")
NUM_SEEDS = 2**32
"""Seeds of samples' generators (`noise.sample_seed`)."""
MOST_SHARDS = 1_000_000
LABEL_STAGE = 1
"""Labels are drawn under a seed of their own, that of an upsampler to one pixel (`cascade.stage_seed`)."""


@dataclass(frozen=True)
class InTurn:
    """Labels in turn: sample i has labels[i mod len(labels)]."""

    labels: tuple[int, ...]
    origin: Mapping[str, Any] | None = None
    """Record of a long list, for the manifest; None: the list itself."""

    def label(self, sample_id: int) -> int:
        """The class asked of a sample."""
        return self.labels[sample_id % len(self.labels)]

    def record(self) -> Any:  # plain values of any kind
        """All that labels depend on besides the run's seed, for the manifest."""
        return list(self.labels) if self.origin is None else dict(self.origin)


@dataclass(frozen=True)
class Drawn:
    """Labels drawn by a generator per sample, class c with probability weights[c] / sum(weights)."""

    weights: tuple[int, ...]
    seed: int
    policy: str
    """The user's name for it."""

    def label(self, sample_id: int) -> int:
        generator = torch.Generator().manual_seed(sample_seed(self.seed ^ LABEL_STAGE << 32, sample_id))
        bounds = list(accumulate(self.weights))
        return bisect_right(bounds, int(torch.randint(bounds[-1], (), generator=generator)))

    def record(self) -> Any:
        # Weights (10, 10) draw other labels than (1, 1), so only ones may be left out.
        all_one = set(self.weights) == {1}
        return {"policy": self.policy} if all_one else {"policy": self.policy, "weights": list(self.weights)}


LabelRule = InTurn | Drawn
"""A rule for the class of each sample."""


@dataclass(frozen=True)
class SampleBatch:
    """Consecutive samples that are made together."""

    ids: range
    y: Tensor
    """Labels (B,) int64, -1 for none."""
    noise: SeededNoise
    """Noise of each sample's own generator."""
    on_step: OnStep | None = None
    """Called by the sampler after every step."""


@dataclass(frozen=True)
class MadeSamples:
    """The samples of a batch."""

    images: Tensor
    """(B, C, H, W) uint8."""
    statistics: GuidanceStatistics | None = None
    """Measured while they were made; None where nothing guides x_t."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Samples 0 .. num_samples - 1 in shards; shard n holds ids [n * shard_size, (n + 1) * shard_size)."""

    num_samples: int
    shard_size: int
    labels: LabelRule | None
    """None: samples without a class."""
    seed: int
    """Seed of the noise."""

    def __post_init__(self) -> None:
        check_at_least(self, num_samples=1, shard_size=1)
        if self.num_samples > NUM_SEEDS:
            raise ValueError(f"num_samples is at most {NUM_SEEDS:,}, one for each seed; got {self.num_samples:,}")
        if self.num_shards > MOST_SHARDS:
            raise ValueError(
                f"shard_size {self.shard_size} cuts {self.num_samples:,} samples into {self.num_shards:,} files, and a "
                f"directory holds at most {MOST_SHARDS:,}; raise it"
            )

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return -(-self.num_samples // self.shard_size)

    def ids(self, shard: int) -> range:
        """The ids of one shard; the last shard may hold fewer."""
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, self.num_samples))

    def label(self, sample_id: int) -> int:
        """The class asked of a sample, -1 for none."""
        return NO_LABEL if self.labels is None else self.labels.label(sample_id)

    def batch(self, ids: range, *, device: torch.device, on_step: OnStep | None = None) -> SampleBatch:
        """The samples of `ids` as a batch on `device`."""
        y = torch.tensor([self.label(i) for i in ids], device=device)
        return SampleBatch(ids, y, SeededNoise(self.seed, ids), on_step)


def batches_of(ids: range, size: int) -> Iterator[range]:
    """Consecutive ids in batches of `size`; the last may be smaller."""
    return (ids[start : start + size] for start in range(0, len(ids), size))


def label_rule(spec: str, class_names: Sequence[str], *, seed: int, unseen: Sequence[int] = ()) -> LabelRule:
    """The rule named by "all", "balanced", "3", "0,1,2", "cat,dog", "uniform", "file:PATH" or "frequencies:PATH".

    seed: the run's. unseen: labels of classes without training images, which "all" and "uniform" leave out.

    Raises:
        FileNotFoundError: no such file or data.
        ValueError: an unknown class, by name, or one without training images; or data without labels.
    """
    if spec in _POLICIES and spec in class_names and len(class_names) > 1:  # of one class it makes no difference
        label = list(class_names).index(spec)
        raise ValueError(
            f'"{spec}" is a class and a rule for all of them; write label:{label} for the class, or balanced'
        )
    rule = _rule(spec, class_names, seed, unseen)
    asked = rule.labels if isinstance(rule, InTurn) else [label for label, n in enumerate(rule.weights) if n]
    wrong = sorted(set(asked) & set(unseen))
    if wrong:
        raise ValueError(
            f'labels ask for class {wrong[0]}, "{class_names[wrong[0]]}", of which the model saw no image in training; '
            f"ask for the others, as all and uniform do"
        )
    return rule


def _rule(spec: str, class_names: Sequence[str], seed: int, unseen: Sequence[int]) -> LabelRule:
    kind, _, path = spec.partition(":")
    if spec == "uniform":
        return Drawn(tuple(int(label not in unseen) for label in range(len(class_names))), seed, policy=spec)
    if kind == "frequencies" and path:
        return Drawn(_frequencies(Path(path), class_names), seed, policy=kind)
    if kind == "file" and path:
        return _labels_file(Path(path), class_names)
    if spec in ("all", "balanced"):
        return InTurn(tuple(label for label in range(len(class_names)) if label not in unseen))
    return InTurn(parse_labels(spec, class_names))


def _labels_file(path: Path, class_names: Sequence[str]) -> InTurn:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of labels {path}; expected one label or class name a line")
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from None
    if not lines:
        raise ValueError(f"{path} is empty; expected one label or class name a line")
    labels: list[int] = []
    for number, line in enumerate(lines, start=1):
        try:
            labels.append(parse_label(line, class_names))
        except ValueError as error:
            raise ValueError(f"line {number} of {path}: {error}") from None
    origin = {"policy": "file", "name": path.name, "count": len(labels), "sha256": file_sha256(path)}
    return InTurn(tuple(labels), origin)


def _frequencies(path: Path, class_names: Sequence[str]) -> tuple[int, ...]:
    """Images of each class in the data at `path`; classes are matched by name if the data have names."""
    stored = open_stored(path, None)
    labels, names = stored.labels, stored.class_names
    label_of = {class_name(name) if names else str(label): label for label, name in enumerate(class_names)}
    weights = [0] * len(class_names)
    for label, count in zip(*np.unique(labels[labels != NO_LABEL], return_counts=True), strict=True):
        name = class_name(names[label]) if names else str(label)
        if name not in label_of:
            raise ValueError(
                f'{path} has {count} images of class "{name}", which is none of the model\'s {len(class_names)} '
                f"classes; give data of the same classes"
            )
        weights[label_of[name]] = int(count)
    if not any(weights):
        raise ValueError(f"{path} has no labels to count; give class folders, labelled samples or an npz with arr_1")
    return tuple(weights)
