"""Which images a class folder holds: names and their order, nothing of the files' content."""

import os
from collections.abc import Iterator
from pathlib import Path

EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")


def class_directories(root: Path) -> list[str]:
    """The names of a class folder's directories, sorted: its classes in the order of their labels.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: it is no folder, holds no folders, or holds images beside them.
    """
    if not root.exists():
        raise FileNotFoundError(f"there is no {root}; data.path is a folder that holds one folder of images per class")
    if not root.is_dir():
        raise ValueError(
            f"{root} is a file; data.path is a folder that holds one folder of images per class (unpack it)"
        )
    entries = sorted(root.iterdir())
    directories = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    loose = [entry.name for entry in entries if _is_image_name(entry.name) and not entry.is_dir()]
    if loose and not directories:
        raise ValueError(
            f"{root} holds images ('{loose[0]}' and {len(loose) - 1} more) but no class folders; put them into one "
            f"folder per class, or all into one, {root / 'all' / loose[0]}, if there are no classes"
        )
    if loose:
        raise ValueError(
            f"{root} holds images beside its class folders ('{loose[0]}' and {len(loose) - 1} more), which belong to "
            f"no class; move them into class folders or elsewhere"
        )
    if not directories:
        raise ValueError(f"no images in {root}: it holds no class folders; expected {root / '<class>' / '*.jpg'}")
    return directories


def _is_image_name(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def listed_images(directory: Path) -> Iterator[str]:
    """Image files below `directory`, relative to it: entries sorted by name, subdirectories expanded in place."""
    with os.scandir(directory) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir() and not entry.name.startswith("."):
            yield from (f"{entry.name}{os.sep}{file}" for file in listed_images(directory / entry.name))
        elif _is_image_name(entry.name) and not entry.is_dir():
            yield entry.name


def class_images(directory: Path) -> list[str]:
    """The images of one class, as `listed_images` orders them.

    Raises:
        ValueError: there are none.
    """
    images = list(listed_images(directory))
    if not images:
        raise ValueError(
            f"the class folder '{directory.name}' in {directory.parent} holds no images ({', '.join(EXTENSIONS)}); "
            f"fill it or remove it"
        )
    return images
