"""Input images of a diffusion model, opened as in its training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ..data.config import DataConfig
from ..data.subset import evenly_spaced
from ..diffusion.model import DiffusionModel

if TYPE_CHECKING:
    from ..data.image_set import ImageSet


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
            f"--data.mode {'L' if channels == 1 else 'RGB'} converts"
        )
    if num_classes is not None and len(dataset.class_names) > num_classes:
        raise ValueError(
            f"{data.path} holds {len(dataset.class_names)} classes, but {name} knows {num_classes}; give images of "
            f"its classes"
        )
    return InputImages(dataset, evenly_spaced(len(dataset), most=most))
