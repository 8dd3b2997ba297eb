"""CIFAR-10 as class folders of PNG files: python examples/cifar10_folders.py cifar10

torchvision fetches the official archive, cifar-10-python.tar.gz, into the folder cifar10/archive, unless it is there.
cifar10/train/<class>/00000.png and cifar10/test/<class>/00000.png are numbered in its order.
"""

import sys
from pathlib import Path

from torchvision.datasets import CIFAR10


def main(out: Path) -> None:
    for split in ("train", "test"):
        images = CIFAR10(out / "archive", train=split == "train", download=True)
        for name in images.classes:
            (out / split / name).mkdir(parents=True, exist_ok=True)
        for number in range(len(images)):
            image, label = images[number]
            image.save(out / split / images.classes[label] / f"{number:05d}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
