"""Trees of image files, in a folder or in a zip, and the classes that their places, their names or a table give."""

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path

import numpy as np

from ..config import Labels
from ..labels import LabelsAndNames, indexed, numbered, table_labels
from .storage import NO_LABEL

_logger = logging.getLogger(__name__)

EXTENSIONS = (
    ".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp",
    ".tif", ".tiff", ".jfif", ".jpe", ".jp2", ".j2k", ".avif", ".apng", ".qoi", ".tga", ".ppm", ".pgm", ".pbm", ".pnm",
    *((".heic", ".heif") if find_spec("pillow_heif") else ()),
)  # fmt: skip
"""Ends of the names of images, of the formats that Pillow reads as pictures; HEIC with the package pillow-heif."""
_EXTENSIONS = frozenset(EXTENSIONS)
_SYSTEM = frozenset(
    ("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "thumbs.db", "ehthumbs.db",
     "desktop.ini")
)  # fmt: skip
_SPLITS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing"))


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
    system: tuple[str, ...]
    """Hidden and system files and folders, whose content is not looked at."""

    @property
    def wrapper(self) -> str | None:
        """The only directory at the top, if all images lie deeper than directly in it."""
        wrapped = len(self.directories) == 1 and all(image.count("/") > 1 for image in self.images)
        return self.directories[0] if wrapped and self.images else None

    @property
    def kinds(self) -> Mapping[str, int]:
        """Number of images of each extension."""
        return Counter(image[image.rindex(".") :].lower() for image in self.images)

    @cached_property
    def tops(self) -> Sequence[str]:
        """The directory at the top that each image lies in; at the top itself, the image."""
        return [image.partition("/")[0] for image in self.images]

    def left_out(self, labels: Labels | None) -> Mapping[str, Sequence[str]]:
        """`StoredImages.left_out`; labels: a table of labels in the tree is not left out."""
        used = labels.as_posix() if isinstance(labels, Path) else None
        found: defaultdict[str, list[str]] = defaultdict(list)
        for file in self.others:
            if file != used:
                found[_extension(file) or "without an extension"].append(file)
        for path in self.system:
            name = path.rsplit("/", 1)[-1]
            found["hidden" if name.startswith(".") else name].append(path)
        return found


def folder_tree(root: Path) -> Tree:
    """All files below a directory."""
    return _tree(root, class_directories(root), _entries(root))


def archive_tree(root: Path, members: Iterable[str]) -> Tree:
    """A tree from its members' names alone, those of directories with a slash at their end.

    Members of the archive, unlike files of a folder, come in any order.
    """
    paths, system = list[list[str]](), set[str]()
    for name in members:
        parts = name.split("/")
        if any(map(is_system, parts)):
            end = next(depth for depth, part in enumerate(parts, start=1) if is_system(part))
            system.add("/".join(parts[:end]))
        else:
            paths.append(parts)
    directories = sorted({parts[0] for parts in paths if len(parts) > 1})
    files = ("/".join(parts) for parts in sorted(paths) if parts[-1])
    return _tree(root, directories, [*((file, False) for file in files), *((path, True) for path in sorted(system))])


def _tree(root: Path, directories: Iterable[str], entries: Iterable[tuple[str, bool]]) -> Tree:
    images, others, system = list[str](), list[str](), list[str]()
    for name, is_system in entries:
        is_image = name[name.rfind(".") :].lower() in _EXTENSIONS  # endswith of so many takes twice as long
        (system if is_system else images if is_image else others).append(name)
    return Tree(
        root=root, directories=tuple(directories), images=tuple(images), others=tuple(others), system=tuple(system)
    )


def _entries(directory: Path, below: str = "") -> Iterator[tuple[str, bool]]:
    """Names of the files below a directory, and whether they are of the system; a folder of the system is an entry.

    Entries are sorted by name, other subdirectories expanded in place. below: beginning of the names.
    """
    with os.scandir(directory) as scanned:
        entries = sorted(scanned, key=attrgetter("name"))
    for entry in entries:
        if is_system(entry.name):
            yield below + entry.name, True
        elif entry.is_dir():
            yield from _entries(directory / entry.name, f"{below}{entry.name}/")
        else:
            yield below + entry.name, False


def _extension(file: str) -> str:
    _, dot, extension = file.rsplit("/", 1)[-1].rpartition(".")  # pathlib takes six times as long
    return (dot + extension).lower() if dot else ""


def files_sha256(path: Path) -> str:
    """SHA-256 of the names, sizes and times of change of a file, or of all files below a directory.

    It detects replaced pictures without reading a million of them.
    """
    digest = sha256()
    for name in [name for name, is_system in _entries(path) if not is_system] if path.is_dir() else [""]:
        found = os.stat(os.path.join(path, name) if name else path)  # noqa: PTH116, PTH118  # pathlib takes thrice as long
        digest.update(repr((name, found.st_size, found.st_mtime_ns)).encode())
    return digest.hexdigest()


def is_system(name: str) -> bool:
    """Hidden files, and what systems put beside pictures: thumbnails, bins, the twin directory of macOS's zips."""
    return name.startswith(".") or name.lower() in _SYSTEM


def class_directories(root: Path) -> list[str]:
    """The names of a class folder's directories, sorted: its classes in the order of their labels."""
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not is_system(entry.name))


def tree_labels(tree: Tree, labels: Labels | None, read: Callable[[Path], bytes | None]) -> LabelsAndNames:
    """Labels of a tree's images and the names of the classes.

    labels: as `DataConfig.labels`. None: class folders if there are any, an empty one being a class as well; images
        that all lie at the top of the tree have no labels.
    read: the content of a file of the tree, None where the tree has no such file.

    Raises:
        FileNotFoundError: no such table.
        ValueError: nothing that could be labelled so; the message says what is there and what to do.
    """
    if labels == "folders":
        return indexed(_folder_classes(tree))
    if not tree.images:
        held = _held_instead(tree.others)
        raise ValueError(f"no images in {tree.root} ({', '.join(EXTENSIONS)}){held}; give a path that holds some")
    if labels == "filenames":
        return _from_names(tree)
    if labels is not None:
        return _from_table(tree, labels, read(labels))
    loose = [image for image in tree.images if "/" not in image]
    if len(loose) == len(tree.images):
        return np.full(len(loose), NO_LABEL), ()
    _refuse_unclassed(tree.root, tree.directories, loose)
    _refuse_splits(tree)
    return indexed(tree.tops, tree.directories)


def _folder_classes(tree: Tree) -> Sequence[str]:
    """The class of each image: the name of the directory at the top of the tree that it lies in."""
    _refuse_unclassed(tree.root, tree.directories, [file for file in (*tree.images, *tree.others) if "/" not in file])
    _refuse_splits(tree)
    empty = sorted(set(tree.directories) - set(tree.tops))
    if empty:
        held = _held_instead(file for file in tree.others if file.startswith(f"{empty[0]}/"))
        found = f"holds no images ({', '.join(EXTENSIONS)}){held}"
        raise ValueError(f"the class folder '{empty[0]}' in {tree.root} {found}; fill it or remove it")
    if tree.wrapper is not None:  # legal, but mostly a folder that was packed or named by mistake
        inner = sorted({image.split("/", 2)[1] for image in tree.images})
        _logger.warning(
            "all images of %s are of one class, '%s', in %d folders (%s, ..); if those are the classes, give %s",
            tree.root, tree.wrapper, len(inner), inner[0], tree.root / tree.wrapper,
        )  # fmt: skip
    return tree.tops


def _refuse_splits(tree: Tree) -> None:
    """Refuse the parent of train/, val/ and the like, at least one of which holds folders alone."""
    found = sorted(set(tree.tops))  # annotations/ and the like hold no images
    if not all(name.lower() in _SPLITS for name in found):
        return
    flat = {image.split("/", 1)[0] for image in tree.images if image.count("/") == 1}
    nested = [name for name in found if name not in flat]
    if nested:
        likely = tree.root / next((name for name in nested if name.lower().startswith("train")), nested[0])
        raise ValueError(
            f"the folders in {tree.root} ({', '.join(found)}) are splits of a data set, not classes; give "
            f"one of them, {likely}"
        )


def _from_names(tree: Tree) -> LabelsAndNames:
    """Classes by the published rule; a warning names one that seems to hold several."""
    names = [image.rsplit("/", 1)[-1].partition("_") for image in tree.images]
    rests: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for name, _, rest in names:
        rests[name][rest.rsplit(".", 1)[0].rstrip("0123456789").strip("_- ")] += 1
    for name, kinds in rests.items():
        words = [kind for kind in kinds if re.fullmatch(r"[^\W\d_]+([_ -]+[^\W\d_]+)*", kind)]
        if 1 < len(words) == len(kinds) <= max(2, kinds.total() // 2):
            _logger.warning(
                '--data.labels filenames takes the text up to the first "_" of a name for its class: "%s" holds %s; if '
                "these are classes, give a table of labels",
                name, ", ".join(f"{name}_{kind} ({kinds[kind]:,})" for kind in words[:5]),
            )  # fmt: skip
            break
    return indexed([name for name, _, _ in names])


def _from_table(tree: Tree, table: Path, content: bytes | None) -> LabelsAndNames:
    source = table if content is None else tree.root / table
    if content is None and not table.is_file():
        raise FileNotFoundError(
            f"there is no {table}, neither in {tree.root} nor from here; data.labels is folders, filenames or a table "
            f"of labels (.csv, .json)"
        )
    content = table.read_bytes() if content is None else content
    return numbered(table_labels(tree.images, content, root=tree.root, source=source), source=source)


def _refuse_unclassed(root: Path, directories: Iterable[str], files: list[str]) -> None:
    loose = [name for name in files if name.lower().endswith(EXTENSIONS)]
    if loose and not directories:
        raise ValueError(
            f"{root} holds images ('{loose[0]}' and {len(loose) - 1} more) but no class folders; put them into one "
            f"folder per class, or all into one, {root / 'all' / loose[0]}, if there are no classes; or give "
            f'--data.labels filenames, where a name begins with its class and a "_", or a table of labels'
        )
    if loose:
        raise ValueError(
            f"{root} holds images beside its class folders ('{loose[0]}' and {len(loose) - 1} more), which belong to "
            f"no class; move them into class folders or elsewhere"
        )
    if not directories:
        held, expected = _held_instead(files), root / "<class>" / "*.jpg"
        raise ValueError(f"no images in {root}: it holds no class folders{held}; expected {expected}")


def _held_instead(files: Iterable[str]) -> str:
    """ ", but 3 .tiff files, the first a/0.tiff", and what to do about archives; empty if there are no files."""
    named = [(_extension(file), file) for file in files]
    if not named:
        return ""
    ((suffix, count),) = Counter(suffix for suffix, _ in named).most_common(1)
    first = dict(reversed(named))[suffix]
    advice = {".zip": " (give the zip itself as the path)", ".tar": " (unpack it)"}.get(suffix, "")
    return f", but {count} {suffix or 'nameless'} files, the first {first}{advice}"
