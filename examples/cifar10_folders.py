"""CIFAR-10 as class folders of PNG files: python examples/cifar10_folders.py cifar10

torchvision fetches the official archive, cifar-10-python.tar.gz, into the folder cifar10/archive, unless it is there.
cifar10/train/<class>/00000.png and cifar10/test/<class>/00000.png are numbered in its order.
"""

import sys
from pathlib import Path

from torchvision.datasets import CIFAR10

from guided_diffusion.files import atomic_directory


def main(out: Path) -> None:
    for split in ("train", "test"):
        if (out / split).is_dir():
            continue  # it is complete: an interrupted one does not get its name
        images = CIFAR10(out / "archive", train=split == "train", download=True)
        with atomic_directory(out / split) as folder:
            for name in images.classes:
                (folder / name).mkdir()
            for number in range(len(images)):
                image, label = images[number]
                image.save(folder / images.classes[label] / f"{number:05d}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
