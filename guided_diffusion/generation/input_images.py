"""Input images of a diffusion model, opened as in its training, and the settings of commands that measure them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ..config import check_at_least
from ..data.config import MODES, DataConfig
from ..data.subset import evenly_spaced
from ..diffusion.model import DiffusionModel
from ..samplers.config import check_clip

if TYPE_CHECKING:
    from ..data.image_set import ImageSet


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """Settings of commands that pass images through a diffusion model."""

    diffusion: Path
    """Run directory or checkpoint of the diffusion model."""
    weights: str | None = None
    """Weights of the checkpoint, such as ema_0.9999 or network; null: its slowest average."""
    data: DataConfig
    """Images; centre crops, not mirrored. Without classes: one folder of all, or --data.labels filenames."""
    max_images: int
    """Largest number of images; of more, evenly spaced ones are taken."""
    batch_size: int = 64
    """Images at a time."""
    clip: float | None = 1.0
    """Bound that estimates of x_0 are clamped to, as published; null: none."""

    def __post_init__(self) -> None:
        check_at_least(self, max_images=1, batch_size=1)
        check_clip(self.clip)


@dataclass(frozen=True)
class InputImages:
    """Centre crops of a data set, evenly spaced in its order."""

    dataset: "ImageSet"
    indices: Sequence[int]
    """Places in the data set."""

    @property
    def files(self) -> list[str]:
        """File of each image."""
        paths = self.dataset.paths
        return [str(paths[index]) for index in self.indices]

    def read(self, start: int = 0, stop: int | None = None) -> tuple[Tensor, Tensor]:
        """Images (B, C, S, S) uint8 and labels (B,) int64 from `start` to `stop`."""
        indices = list(self.indices[start:stop])
        return self.dataset.read(indices), self.dataset.labels[indices]


def open_inputs(
    data: DataConfig, model: DiffusionModel, *, most: int, class_names: Sequence[str] | None
) -> InputImages:
    """At most `most` of the images at `data.path`, at the model's size.

    class_names: the classes that labels index; None: those of the data.

    Raises:
        ValueError: another number of channels than the model's, or more classes.
    """
    from ..data.image_set import open_training_set  # with Pillow, which no help needs

    dataset = open_training_set(data, image_size=model.config.network.image_size, class_names=class_names)
    name, channels, num_classes = model.checkpoint.path, model.image_shape[0], model.config.network.num_classes
    if dataset.channels != channels:
        raise ValueError(
            f"{data.path} holds images of {dataset.channels} channels, but {name} makes images of {channels}; "
            f"--data.mode {MODES[channels]} converts"
        )
    if num_classes is not None and len(dataset.class_names) > num_classes:
        raise ValueError(
            f"{data.path} holds {len(dataset.class_names)} classes, but {name} knows {num_classes}; give images of "
            f"its classes"
        )
    return InputImages(dataset, evenly_spaced(len(dataset), most=most))
