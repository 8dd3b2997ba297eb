"""Numbers of digits for train_classifier.py --target: python examples/digit_table.py runs/demo/digits/train [FOLDER..]

table.csv in each folder gets the columns file, slant (the shear of the digit, positive where it leans to the right),
ink (mean darkness, 0..1), and as 0 or 1 thick (ink above THICK) and odd.
"""

import csv
import io
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from guided_diffusion.files import atomic_write

THICK = 0.31


def slant(ink: NDArray) -> float:
    """The slope dx/dy of a digit by its second moments, y upward; ink: (H, W), 0 is paper."""
    y, x = np.mgrid[: ink.shape[0], : ink.shape[1]].astype(float)
    x, y = x - np.average(x, weights=ink), np.average(y, weights=ink) - y
    return float(np.average(x * y, weights=ink) / np.average(y * y, weights=ink))


def main(folders: list[Path]) -> None:
    for folder in folders:
        rows = [["file", "slant", "ink", "thick", "odd"]]
        for file in sorted(folder.glob("*/*.png")):
            ink = np.asarray(Image.open(file)) / 255
            thick, odd = f"{ink.mean() > THICK:d}", f"{int(file.parent.name) % 2}"
            rows.append([file.relative_to(folder).as_posix(), f"{slant(ink):.4f}", f"{ink.mean():.4f}", thick, odd])
        with atomic_write(folder / "table.csv") as stream, io.TextIOWrapper(stream, "utf-8", newline="") as text:
            csv.writer(text, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
