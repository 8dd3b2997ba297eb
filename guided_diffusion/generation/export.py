"""Samples in the forms that others read: the published npz batch, a folder of pictures, or one grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..data.formats.samples import NO_LABEL, iterate_shards, merged_npz, read_labels, read_manifest
from ..data.pictures import write_png
from ..files import atomic_directory
from .class_grid import class_grid


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write samples as an npz batch, as a folder of pictures or as one grid; which, the name of `out` says."""

    samples: Path
    """Directory of samples."""
    out: Path
    """NAME.npz: the published layout, images in arr_0 and labels in arr_1. NAME.png: a grid, a row for each class. Any
    name without a suffix: a folder of PNGs, in a directory for each class if they have classes. Readers of such a
    folder see the samples class by class, and not in the order of their ids."""
    columns: int = 10
    """Of a grid, samples in each row."""
    rows: int = 10
    """Of a grid."""

    def __post_init__(self) -> None:
        if self.out.suffix not in ("", ".npz", ".png"):
            raise ValueError(f"out is NAME.npz, NAME.png, or a folder's name without a suffix; got {self.out}")
        for name in ("columns", "rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def export_samples(config: ExportConfig) -> None:
    """Write `config.out`, whole or not at all; one shard is in memory at a time.

    Raises:
        FileNotFoundError: no samples there.
        FileExistsError: a folder that is there already; files are replaced.
        ValueError: samples that are missing or damaged, or names of classes that no directory can have.
    """
    if config.out.suffix == ".npz":
        merged_npz(config.samples, config.out)
    elif config.out.suffix == ".png":
        write_png(config.out, class_grid(config.samples, columns=config.columns, rows=config.rows))
    else:
        write_pictures(config.samples, config.out)


def write_pictures(samples: Path, out: Path) -> None:
    """A PNG of each sample, OUT/ID.png or OUT/CLASS/ID.png.

    Raises:
        As `export_samples`.
    """
    labels = read_labels(samples)
    known: Sequence[str] = read_manifest(samples).get("class_names") or ()
    names = () if (labels == NO_LABEL).all() else _directories(known, samples)
    digits = len(str(len(labels) - 1))
    with atomic_directory(out) as folder:
        # Classes without samples have one too, so that a reader counts the same classes.
        places = [folder / name for name in names]
        for place in places:
            place.mkdir()
        for shard in iterate_shards(samples):
            for image, label, sample_id in zip(shard.images, shard.labels.tolist(), shard.ids.tolist(), strict=True):
                place = places[label] if places else folder
                Image.fromarray(image.squeeze()).save(place / f"{sample_id:0{digits}d}.png")


def _directories(class_names: Sequence[str], samples: Path) -> Sequence[str]:
    """The names of the classes, if a reader of directories would find the same classes.

    Raises:
        ValueError: names that no directory can have.
    """
    if not class_names:
        raise ValueError(f"{samples} has labels but no names of classes for directories; export an .npz, or add them")
    wrong = [name for name in class_names if not name or name.startswith(".") or "/" in name or "\0" in name]
    if wrong or len(set(class_names)) < len(class_names):
        reason = f'such as "{wrong[0]}"' if wrong else "some of them equal"
        raise ValueError(f"{samples} has class names that cannot name directories ({reason}); export an .npz")
    return class_names
