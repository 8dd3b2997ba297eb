"""Which class each sample is asked to be of: a function of the sample's id, and of nothing that a run may change."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ..data.formats import open_stored
from ..data.formats.storage import NO_LABEL
from ..diffusion.model import parse_label
from ..diffusion.noise import sample_seed
from ..files import file_sha256

LABEL_STAGE = 1
"""Labels are drawn under a seed of their own, as an upsampler's noise is (`cascade.stage_seed`): that of one pixel."""


class LabelRule(Protocol):
    """How samples come by their classes."""

    def label(self, sample_id: int) -> int:
        """The class that a sample is asked to be of."""
        ...

    def record(self) -> Any:  # plain values of any kind
        """What a manifest says of the rule: all that labels depend on, beside the run's seed."""
        ...


@dataclass(frozen=True)
class InTurn:
    """Sample i is asked to be of class labels[i mod len(labels)]."""

    labels: tuple[int, ...]
    origin: Mapping[str, Any] | None = None
    """What stands for a long list in the manifest; None: the list itself does."""

    def label(self, sample_id: int) -> int:
        return self.labels[sample_id % len(self.labels)]

    def record(self) -> Any:
        return list(self.labels) if self.origin is None else dict(self.origin)


@dataclass(frozen=True)
class Drawn:
    """Class c is drawn with probability weights[c] / sum(weights), by a generator of each sample's own."""

    weights: tuple[int, ...]
    seed: int
    policy: str
    """How the user called it."""

    def label(self, sample_id: int) -> int:
        generator = torch.Generator().manual_seed(sample_seed(self.seed ^ LABEL_STAGE << 32, sample_id))
        bounds = list(accumulate(self.weights))
        return bisect_right(bounds, int(torch.randint(bounds[-1], (), generator=generator)))

    def record(self) -> Any:
        # (10, 10) draws other labels than (1, 1): only the latter may go unsaid.
        all_one = set(self.weights) == {1}
        return {"policy": self.policy} if all_one else {"policy": self.policy, "weights": list(self.weights)}


def label_rule(spec: str, class_names: Sequence[str], *, seed: int) -> LabelRule:
    """The rule that `SampleConfig.labels` names: "all", "balanced", "3", "0,1,2", "cat,dog", "uniform", "file:PATH",
    "frequencies:PATH"; a number is a label, not a name.

    seed: the run's.

    Raises:
        FileNotFoundError: no such file or data.
        ValueError: a class that is not there, naming it, or data without labels.
    """
    kind, _, path = spec.partition(":")
    if spec == "uniform":
        return Drawn((1,) * len(class_names), seed, policy=spec)
    if kind == "frequencies" and path:
        return Drawn(_frequencies(Path(path), class_names), seed, policy=kind)
    if kind == "file" and path:
        return _from_file(Path(path), class_names)
    return InTurn(parse_labels("all" if spec == "balanced" else spec, class_names))


def parse_labels(spec: str, class_names: Sequence[str]) -> tuple[int, ...]:
    """The labels of "all", "3", "0,1,2" or "cat,dog"; a number is a label, not a name.

    Raises:
        ValueError: a class that is not there.
    """
    if spec == "all":
        return tuple(range(len(class_names)))
    return tuple(parse_label(part.strip(), class_names) for part in spec.split(","))


def _from_file(path: Path, class_names: Sequence[str]) -> InTurn:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of labels {path}; expected one label or class name a line")
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines:
        raise ValueError(f"{path} is empty; expected one label or class name a line")
    labels: list[int] = []
    for number, line in enumerate(lines, start=1):
        try:
            labels.append(parse_label(line.strip(), class_names))
        except ValueError as error:
            raise ValueError(f"line {number} of {path}: {error}") from None
    origin = {"policy": "file", "name": path.name, "count": len(labels), "sha256": file_sha256(path)}
    return InTurn(tuple(labels), origin)


def _frequencies(path: Path, class_names: Sequence[str]) -> tuple[int, ...]:
    """How many images of each class the data at a path hold; classes are matched by name where the data have names."""
    stored = open_stored(path, None)
    labels, names = stored.labels, stored.class_names
    label_of = {name if names else str(label): label for label, name in enumerate(class_names)}
    weights = [0] * len(class_names)
    for label, count in zip(*np.unique(labels[labels != NO_LABEL], return_counts=True), strict=True):
        name = names[label] if names else str(label)
        if name not in label_of:
            raise ValueError(
                f'{path} has {count} images of class "{name}", which is none of the model\'s {len(class_names)} '
                f"classes; give data of the same classes"
            )
        weights[label_of[name]] = int(count)
    if not any(weights):
        raise ValueError(f"{path} has no labels to count; give class folders, labelled samples or an npz with arr_1")
    return tuple(weights)
