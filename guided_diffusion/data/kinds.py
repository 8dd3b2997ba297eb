"""What kind of data lies at a path, told by what is there and never by trying."""

from pathlib import Path
from typing import Literal

from .formats.folder import open_folder, open_zip
from .formats.huggingface import PREFIX, is_saved_dataset, open_huggingface
from .formats.packed import is_packed, open_packed
from .formats.webdataset import open_webdataset
from .listing import EXTENSIONS
from .storage import LabelledImages

Kind = Literal["folder", "zip", "prepared", "webdataset", "huggingface"]
Labels = Literal["folders", "filenames"] | Path

EXPECTED = (
    "data.path is a folder that holds one folder of images per class, a .zip of one, WebDataset .tar shards or a "
    "Hugging Face dataset (hf:NAME)"
)


def kind_of(path: Path) -> Kind | None:
    """What lies at a path, which within a zip need not exist; None: nothing, or a file of no known kind."""
    if str(path).startswith(PREFIX) or (path.is_dir() and is_saved_dataset(path)):
        return "huggingface"
    if _archive(path) is not None:
        return "zip"
    if path.is_dir() and is_packed(path):
        return "prepared"
    if path.exists() and _is_webdataset(path):
        return "webdataset"
    return "folder" if path.is_dir() else None


def open_labelled_images(path: Path, *, labels: Labels | None) -> LabelledImages:
    """The images at `path`, of whichever kind, with the labels that `labels` says (`DataConfig.labels`).

    labels: None takes what there are; images that lie beside one another, in no class folders, have none, which is the
    label -1 and no class names.

    Raises:
        FileNotFoundError: nothing at the path, or no such table of labels.
        ValueError: a file or folder of no known kind, or what the kind refuses.
    """
    match kind_of(path):
        case "huggingface":
            return open_huggingface(path, label_column=_column(labels, path))
        case "zip":
            archive = _archive(path)
            assert archive is not None
            inside = path.relative_to(archive).as_posix()
            return open_zip(archive, "" if inside == "." else inside, labels=labels)
        case "prepared":
            _refuse_others(labels, f"{path} holds prepared images")
            return open_packed(path)
        case "webdataset":
            _refuse_others(labels, f"{path} holds WebDataset shards")
            return open_webdataset(path)
        case "folder":
            return open_folder(path, labels=labels)
        case None:
            if not path.exists():
                raise FileNotFoundError(f"there is no {path}; {EXPECTED}")
            raise ValueError(f"{path} is a file; {EXPECTED}. If it is another kind of archive, unpack it")


def _archive(path: Path) -> Path | None:
    """The zip that a path is, or leads into."""
    return next((place for place in (path, *path.parents) if _is_zip(place)), None)


def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip" and path.is_file()


def _refuse_others(labels: Labels | None, holding: str) -> None:
    if labels not in ("folders", None):
        raise ValueError(f"{holding}, whose labels are their own; leave out data.labels")


def _is_webdataset(path: Path) -> bool:
    """A .tar, or a folder of .tar files with neither folders nor images in it: class folders may have tars beside."""
    if path.is_file():
        return path.suffix == ".tar"
    entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    foreign = any(entry.is_dir() or entry.suffix.lower() in EXTENSIONS for entry in entries)
    return not foreign and any(entry.suffix == ".tar" for entry in entries)


def _column(labels: Labels | None, path: Path) -> str | None:
    if labels == "filenames":
        raise ValueError(f"{path} is a Hugging Face dataset, whose images have no file names; leave out data.labels")
    return None if labels in ("folders", None) else str(labels)
