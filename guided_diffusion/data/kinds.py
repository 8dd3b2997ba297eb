"""What kind of data lies at a path, told by what is there and never by trying."""

from pathlib import Path
from typing import Literal

from guided_diffusion.data.huggingface import PREFIX, is_saved_dataset, open_huggingface
from guided_diffusion.data.listing import EXTENSIONS
from guided_diffusion.data.packing import is_packed, open_packed
from guided_diffusion.data.storage import LabelledImages
from guided_diffusion.data.trees import open_folder, open_zip
from guided_diffusion.data.webdataset import open_webdataset

Labels = Literal["folders", "filenames"] | Path

EXPECTED = (
    "data.path is a folder that holds one folder of images per class, a .zip of one, WebDataset .tar shards or a "
    "Hugging Face dataset (hf:NAME)"
)


def open_labelled_images(path: Path, *, labels: Labels) -> LabelledImages:
    """The images at `path`, of whichever kind, with the labels that `labels` says (`DataConfig.labels`).

    Raises:
        FileNotFoundError: nothing at the path, or no such table of labels.
        ValueError: a file or folder of no known kind, or what the kind refuses.
    """
    if str(path).startswith(PREFIX) or (path.is_dir() and is_saved_dataset(path)):
        return open_huggingface(path, label_column=_column(labels, path))
    archive = next((place for place in (path, *path.parents) if _is_zip(place)), None)
    if archive is not None:
        inside = path.relative_to(archive).as_posix()
        return open_zip(archive, "" if inside == "." else inside, labels=labels)
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; {EXPECTED}")
    if path.is_dir() and is_packed(path):
        if labels != "folders":
            raise ValueError(f"{path} holds prepared images, whose labels are their own; leave out data.labels")
        return open_packed(path)
    if _is_webdataset(path):
        if labels != "folders":
            raise ValueError(f"{path} holds WebDataset shards, whose labels are their own; leave out data.labels")
        return open_webdataset(path)
    if not path.is_dir():
        raise ValueError(f"{path} is a file; {EXPECTED}. If it is another kind of archive, unpack it")
    return open_folder(path, labels=labels)


def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip" and path.is_file()


def _is_webdataset(path: Path) -> bool:
    """A .tar, or a folder of .tar files with neither folders nor images in it: class folders may have tars beside."""
    if path.is_file():
        return path.suffix == ".tar"
    entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    foreign = any(entry.is_dir() or entry.suffix.lower() in EXTENSIONS for entry in entries)
    return not foreign and any(entry.suffix == ".tar" for entry in entries)


def _column(labels: Labels, path: Path) -> str | None:
    if labels == "filenames":
        raise ValueError(f"{path} is a Hugging Face dataset, whose images have no file names; leave out data.labels")
    return None if labels == "folders" else str(labels)
