"""Which images a tree holds, in a folder or in a zip, and which classes their places or names tell: nothing of the
files' content."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath

EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")


@dataclass(frozen=True, kw_only=True)
class Tree:
    """The files of a folder or of a zip; their names are relative to `root`, with "/", whatever the system."""

    root: Path
    """For messages; it need not be a directory."""
    directories: tuple[str, ...]
    """The names of the directories at the top, sorted."""
    images: tuple[str, ...]
    """In the published order: the entries of a directory by name, subdirectories expanded in place."""
    others: tuple[str, ...]
    """Files that are no images by their names, in the same order."""


def folder_tree(root: Path) -> Tree:
    """All files below a directory."""
    directories = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not _is_junk(entry.name))
    return _tree(root, directories, listed_files(root))


def archive_tree(root: Path, members: Iterable[str]) -> Tree:
    """A tree from its members' names alone, those of directories with a slash at their end.

    Members of the archive, unlike files of a folder, come in any order.
    """
    paths = sorted(parts for name in members if not any(map(_is_junk, parts := name.split("/"))))
    directories = sorted({parts[0] for parts in paths if len(parts) > 1})
    return _tree(root, directories, ("/".join(parts) for parts in paths if parts[-1]))


def _tree(root: Path, directories: Iterable[str], files: Iterable[str]) -> Tree:
    images: list[str] = []
    others: list[str] = []
    for file in files:
        (images if _is_image_name(file) else others).append(file)
    return Tree(root=root, directories=tuple(directories), images=tuple(images), others=tuple(others))


def listed_files(directory: Path) -> Iterator[str]:
    """Files below `directory`, relative to it: entries sorted by name, subdirectories expanded in place."""
    with os.scandir(directory) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    for entry in entries:
        if _is_junk(entry.name):
            continue
        if entry.is_dir():
            yield from (f"{entry.name}/{file}" for file in listed_files(directory / entry.name))
        else:
            yield entry.name


def files_sha256(path: Path) -> str:
    """Of the names, sizes and times of change of a file, or of all files below a directory; their content is not read.

    It tells pictures that were replaced under their directory's name without reading a million of them.

    Raises:
        OSError: nothing there, or a file that vanished meanwhile.
    """
    digest = sha256()
    for name in listed_files(path) if path.is_dir() else [""]:
        found = (path / name).stat()
        digest.update(repr((name, found.st_size, found.st_mtime_ns)).encode())
    return digest.hexdigest()


def _is_image_name(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _is_junk(name: str) -> bool:
    """What no listing of a directory shows, and the twin directory that macOS puts into zips."""
    return name.startswith(".") or name == "__MACOSX"


def class_directories(root: Path) -> list[str]:
    """The names of a class folder's directories, sorted: its classes in the order of their labels.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: it is no folder, holds no folders, or holds images beside them.
    """
    if not root.exists():
        raise FileNotFoundError(f"there is no {root}; expected a folder that holds one folder of images per class")
    if not root.is_dir():
        raise ValueError(f"{root} is a file; expected a folder that holds one folder of images per class (unpack it)")
    entries = sorted(entry for entry in root.iterdir() if not _is_junk(entry.name))
    files = [entry.name for entry in entries if not entry.is_dir()]
    directories = [entry.name for entry in entries if entry.is_dir()]
    _refuse_unclassed(root, directories, files)
    return directories


def folder_classes(tree: Tree) -> list[str]:
    """The class of each image: the name of the directory at the top of the tree that it lies in.

    Raises:
        ValueError: no directories, images beside them, or a directory without images.
    """
    _refuse_unclassed(tree.root, tree.directories, [file for file in (*tree.images, *tree.others) if "/" not in file])
    classes = [image.split("/", 1)[0] for image in tree.images]
    empty = sorted(set(tree.directories) - set(classes))
    if empty:
        raise ValueError(
            f"the class folder '{empty[0]}' in {tree.root} holds no images ({', '.join(EXTENSIONS)})"
            f"{_held_instead(file for file in tree.others if file.startswith(empty[0] + '/'))}; fill it or remove it"
        )
    return classes


def filename_classes(tree: Tree) -> list[str]:
    """The class of each image by the published convention: its file's name up to the first "_", or all of it.

    Raises:
        ValueError: no images.
    """
    refuse_no_images(tree)
    return [PurePosixPath(image).name.split("_", 1)[0] for image in tree.images]


def place_classes(tree: Tree) -> list[str] | None:
    """The class of each image as `folder_classes` has it, where there may be none: None if all images lie at the top of
    the tree. Directories without images are no fault.

    Raises:
        ValueError: no images, or some in directories and some beside them.
    """
    refuse_no_images(tree)
    loose = [image for image in tree.images if "/" not in image]
    if len(loose) == len(tree.images):
        return None
    _refuse_unclassed(tree.root, tree.directories, loose)
    return [image.split("/", 1)[0] for image in tree.images]


def wrapping(tree: Tree) -> str | None:
    """The only directory at the top of a tree, if all images lie deeper than directly in it."""
    wrapped = len(tree.directories) == 1 and all(image.count("/") > 1 for image in tree.images)
    return tree.directories[0] if wrapped and tree.images else None


def refuse_no_images(tree: Tree) -> None:
    """Raises ValueError if a tree holds no images, saying what it holds instead."""
    if not tree.images:
        raise ValueError(
            f"no images in {tree.root} ({', '.join(EXTENSIONS)}){_held_instead(tree.others)}; give a path that holds "
            f"some"
        )


def _refuse_unclassed(root: Path, directories: Iterable[str], files: list[str]) -> None:
    loose = [name for name in files if _is_image_name(name)]
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
        raise ValueError(
            f"no images in {root}: it holds no class folders{_held_instead(files)}; expected "
            f"{root / '<class>' / '*.jpg'}"
        )


def _held_instead(files: Iterable[str]) -> str:
    """ ", but 3 .tiff files, the first a/0.tiff", and what to do about archives; empty if there are no files."""
    files = list(files)
    if not files:
        return ""
    ((suffix, count),) = Counter(PurePosixPath(file).suffix.lower() for file in files).most_common(1)
    first = next(file for file in files if file.lower().endswith(suffix))
    advice = {".zip": " (give the zip itself as the path)", ".tar": " (unpack it)"}.get(suffix, "")
    return f", but {count} {suffix or 'nameless'} files, the first {first}{advice}"


def evenly_spaced(count: int, *, most: int) -> list[int]:
    """At most `most` of the indices 0 .. count - 1, both ends included."""
    kept = min(most, count)
    return [round(i * (count - 1) / max(1, kept - 1)) for i in range(kept)]
