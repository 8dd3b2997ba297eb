"""Images that a diffusion model is given, and not asked to make: opened as it was trained, and read in batches."""

from collections.abc import Sequence

from torch import Tensor

from ..data.config import DataConfig
from ..data.image_set import ImageSet, open_training_set
from ..diffusion.model import DiffusionModel


def open_given(data: DataConfig, model: DiffusionModel, *, class_names: Sequence[str] | None) -> ImageSet:
    """The images at `data.path` as centre crops of the model's size.

    class_names: whose numbers the labels are to be; None: those of the data.

    Raises:
        FileNotFoundError, ValueError: as `open_training_set`; images of another number of channels than the model's, or
            more classes than it is told.
    """
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
    return dataset


def read_given(dataset: ImageSet, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Images (B, C, S, S) uint8 and labels (B,) int64 of a data set's items."""
    return dataset.read(indices), dataset.labels[list(indices)]
