"""Crop and pack a data set once: python scripts/prepare_data.py --data.path SRC --size 64 --out DIR"""

import logging
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..config import check_at_least, run_command
from ..data.config import DataConfig, refuse_among

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Crop all images once and pack them into few files, from which a training reads without decoding.

    A training with OUT as its data.path sees what it would see of the images themselves, to the bit, at that image
    size and with centre crops. Random crops would cut from the squares that are left: train with these on the images.
    """

    data: DataConfig
    """The images. Random crops and mirrors, which training draws anew each time, cannot be prepared."""
    size: int
    """Side of the squares, pixels: the network's image size."""
    out: Path
    """Directory for the files; an interrupted run continues there."""

    def __post_init__(self) -> None:
        check_at_least(self, size=1)
        if self.data.crop != "center" or self.data.flip:
            raise ValueError(
                "prepared images are centre crops, not mirrored: leave out data.crop and data.flip (a training may "
                "still mirror them)"
            )
        if self.data.balance:
            raise ValueError("prepared data hold every image once: leave out data.balance, and give it to the training")


def prepare_data(config: PrepareConfig) -> None:
    """Write the missing files of `config.out`; where the disk is full they stay, and the same command goes on."""
    from ..data.image_set import open_training_set  # imports Pillow, which --help has no use for
    from ..data.preparation import write_prepared
    from ..data.summary import doubts, summary

    refuse_among(config.data.path, config.out)
    images = open_training_set(config.data, image_size=config.size)
    print(summary(images), file=sys.stderr)
    for doubt in doubts(images):
        _logger.warning("%s", doubt)
    size = write_prepared(config.out, images, config.data)
    print(
        f"{config.out}: {len(images):,} images of {config.size}x{config.size} in {len(images.class_names)} classes, "
        f"{size / 1e6:,.0f} MB; train with --data.path {config.out}"
    )


main = partial(run_command, PrepareConfig, prepare_data)
