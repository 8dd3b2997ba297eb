"""Write scikit-learn's handwritten digits as class folders: python scripts/make_digits.py --out runs/demo/digits

1,797 scans of 8x8 pixels in ten classes.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..config import run_command
from ..files import atomic_directory

NUM_SCANS = 1797


@dataclass(frozen=True, kw_only=True)
class DigitsConfig:
    """Write scikit-learn's handwritten digits as class folders train/<digit> and test/<digit>."""

    out: Path
    """Folder to write; one that is complete already is left as it is."""
    test_every: int = 5
    """Every n-th scan of each class is held out."""

    def __post_init__(self) -> None:
        if self.test_every < 2:
            raise ValueError(f"test_every is at least 2, or nothing is left to train on; got {self.test_every}")


def write_digits(config: DigitsConfig) -> None:
    """Write grey PNG files train/<digit>/NNNN.png and test/<digit>/NNNN.png, all or nothing.

    Raises:
        ValueError: scikit-learn is not installed, or `out` is there and is something else.
    """
    import numpy as np  # here, with PIL and scikit-learn, so that --help is quick
    from PIL import Image

    if config.out.exists():
        found = len(list(config.out.glob("*/*/*.png")))
        if found != NUM_SCANS:
            raise ValueError(
                f"{config.out} is there, but holds {found} of {NUM_SCANS} scans; remove it or move it away"
            )
        return
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ValueError("the digits come with scikit-learn; install it: pip install scikit-learn") from None
    scans, labels = load_digits(return_X_y=True)  # 17 grey levels, 0 the paper and 16 the ink
    pixels = np.round(scans.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    with atomic_directory(config.out) as folder:
        for label in range(10):
            for position, index in enumerate(np.flatnonzero(labels == label)):
                split = "test" if position % config.test_every == 0 else "train"
                path = folder / split / str(label) / f"{index:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels[index]).save(path)


main = partial(run_command, DigitsConfig, write_digits)
