"""Images of Hugging Face datasets, from the hub or from disk, through the `datasets` library (the extra "hf")."""

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...files import open_regular
from ..config import Labels
from .storage import StoredImages

PREFIX = "hf:"


@dataclass(frozen=True)
class DatasetRows:
    """Rows of a dataset, whose Arrow files are mapped into memory."""

    source: Path
    """For messages."""
    images: Any
    """A datasets.Dataset whose `column` gives the encoded bytes of an image."""
    column: str

    def path(self, index: int) -> Path:
        return self.source / str(index)

    def open(self, index: int) -> IO[bytes]:
        image = self.images[int(index)][self.column]
        if image is None or (image["bytes"] is None and image["path"] is None):
            raise ValueError("the row holds no image")
        return open_regular(Path(image["path"])) if image["bytes"] is None else io.BytesIO(image["bytes"])


def recognise(path: Path) -> bool:
    """hf:NAME, or a directory with Parquet files or with what `save_to_disk` of the datasets library wrote."""
    if str(path).startswith(PREFIX):
        return True
    saved = any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))
    return saved or any(path.glob("*.parquet")) or any(path.glob("data/*.parquet"))


def open_stored(path: Path, labels: Labels | None) -> StoredImages:
    """The images of hf:NAME, hf:NAME:SPLIT or a saved dataset.

    labels: a column of type ClassLabel; "folders" and None take the only one.
    """
    if labels == "filenames":
        raise ValueError(f"{path} is a Hugging Face dataset, whose images have no file names; leave out data.labels")
    name, split = str(path), ""
    if name.startswith(PREFIX):
        name, _, split = name.removeprefix(PREFIX).partition(":")
    dataset = _loaded(path, name, split)
    image_column = _only_column(dataset, "Image", path)
    label_column = _only_column(dataset, "ClassLabel", path, wanted=str(labels) if isinstance(labels, Path) else None)
    rows = dataset.with_format(None).select_columns(label_column)[:][label_column]
    numbers = np.array([-1 if label is None else label for label in rows], dtype=np.int64)
    unlabelled = np.flatnonzero(numbers < 0)
    if unlabelled.size:
        raise ValueError(
            f"{unlabelled.size} rows of {path} have no label in '{label_column}', the first {unlabelled[0]}; filter "
            f"them out, or give another split"
        )
    images = dataset.with_format(None).select_columns(image_column)
    images = images.cast_column(image_column, replace(dataset.features[image_column], decode=False))
    class_names = tuple(dataset.features[label_column].names)
    return StoredImages(images=DatasetRows(path, images, image_column), labels=numbers, class_names=class_names)


def _loaded(path: Path, name: str, split: str) -> Any:
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ImportError as missing:
        raise ImportError("Hugging Face datasets need a library: pip install guided-diffusion[hf]") from missing
    if (Path(name) / "dataset_dict.json").is_file():
        splits = sorted(entry.name for entry in Path(name).iterdir() if entry.is_dir())
        advice = f"give one, as --data.path {Path(name) / splits[0]}"
        raise ValueError(f"{name} holds the splits {', '.join(splits)}; {advice}")
    saved = (Path(name) / "state.json").is_file()
    if saved and split:
        raise ValueError(f"{name} is a dataset without splits, as save_to_disk wrote it; leave out ':{split}'")
    try:
        if saved:
            return datasets.load_from_disk(name)
        splits = [split] if split else datasets.get_dataset_split_names(name)
        if len(splits) > 1:
            advice = f"give one, as --data.path {PREFIX}{name}:{splits[0]}"
            raise ValueError(f"it has the splits {', '.join(splits)}; {advice}")
        return datasets.load_dataset(name, split=splits[0])
    except IndexError as error:  # from load_from_disk; load_dataset has errors of its own
        raise ValueError(f"{path} has no rows") from error
    except ConnectionError as error:
        advice = "without a network, give the path of a copy that save_to_disk wrote elsewhere"
        raise ConnectionError(f"{path} cannot be fetched: {error}; {advice}") from error
    except (ValueError, OSError, DatasetsError) as error:
        reason = error.__cause__ or error  # DatasetGenerationError itself says only that there was an error
        raise ValueError(f"{path} cannot be loaded as a Hugging Face dataset: {reason}") from error


def _only_column(dataset: Any, kind: str, path: Path, *, wanted: str | None = None) -> str:
    """The column whose feature is of the class `kind` of the datasets library."""
    kinds = {column: type(feature).__name__ for column, feature in dataset.features.items()}
    of_kind = [column for column, found in kinds.items() if found == kind]
    listed = ", ".join(f"{column} ({found})" for column, found in kinds.items())
    if wanted is not None:
        if wanted not in of_kind:
            raise ValueError(f"{path} has no column '{wanted}' of type {kind}; its columns: {listed}")
        return wanted
    if not of_kind:
        raise ValueError(
            f"{path} has no column of type {kind}; its columns: {listed}. Give one that type with cast_column and save "
            f"the dataset with save_to_disk"
        )
    if len(of_kind) > 1:
        advice = "choose one with --data.labels" if kind == "ClassLabel" else "remove all but one"
        raise ValueError(f"{path} has {len(of_kind)} columns of type {kind}, {', '.join(of_kind)}; {advice}")
    return of_kind[0]
