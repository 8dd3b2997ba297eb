"""Two small sets of images, of one kind and a little apart."""

from pathlib import Path

import pytest
from evaluation.pixel_extractor import LABELS, noisy_images, save_class_folders, save_samples


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """A directory of 120 samples, class by class."""
    return save_samples(tmp_path / "samples", noisy_images(LABELS, seed=0), LABELS)


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """A class folder of 120 pictures."""
    return save_class_folders(tmp_path / "real", noisy_images(LABELS, seed=1, spread=35), LABELS)
