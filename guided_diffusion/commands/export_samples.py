"""Export samples: python scripts/export_samples.py --samples runs/samples --out samples.npz"""

import io
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from ..config import check_at_least, run_command
from ..data.formats.samples import NO_LABEL, iterate_shards, merged_npz, read_labels, read_manifest
from ..data.formats.tree import is_system
from ..data.labels import class_name
from ..data.pictures import picture
from ..files import atomic_directory
from ..generation.sample_pictures import write_class_grid

_logger = logging.getLogger(__name__)

_LONGEST_NAME = 60
"""Characters, which have up to 4 bytes of the 255 of a name."""
_RESERVED = frozenset(("CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))))
"""Names of devices on Windows."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write samples as an npz batch, as a folder of pictures or as one grid, by the suffix of `out`."""

    samples: Path
    """Directory of samples."""
    out: Path
    """NAME.npz: the published layout, images in arr_0 and labels in arr_1. NAME.png: a grid, a row for each class. A
    name without a suffix: a folder of PNGs, in a directory for each class if there are classes. A folder is read class
    by class, not in the order of sample ids."""
    columns: int = 10
    """Samples in each row of a grid."""
    rows: int = 10
    """Rows of a grid."""

    def __post_init__(self) -> None:
        if self.out.suffix not in ("", ".npz", ".png"):
            raise ValueError(f"out is NAME.npz, NAME.png, or a folder's name without a suffix; got {self.out}")
        check_at_least(self, columns=1, rows=1)


def export_samples(config: ExportConfig) -> None:
    """Write `config.out` atomically, with one shard in memory at a time; files are replaced, folders are not."""
    if config.out.suffix == ".npz":
        merged_npz(config.samples, config.out)
    elif config.out.suffix == ".png":
        write_class_grid(config.out, config.samples, columns=config.columns, rows=config.rows)
    else:
        write_pictures(config.samples, config.out)


def write_pictures(samples: Path, out: Path) -> None:
    """Write a PNG of each sample, OUT/ID.png or OUT/CLASS/ID.png.

    Raises:
        ValueError: labels without class names.
    """
    labels = read_labels(samples)
    has_classes = not (labels == NO_LABEL).all()
    names: Sequence[str] = (read_manifest(samples).get("class_names") or ()) if has_classes else ()
    if has_classes and not names:
        raise ValueError(f"{samples} has labels but no class names to name directories by; export an .npz")
    names = folder_names(names)
    if out.exists() and _is_export(out, samples, names):
        print(f"{out} is there already, whole, with these pictures")
        return
    with atomic_directory(out) as folder:
        for name in names:  # also of classes without samples, so that a reader finds the same classes
            (folder / name).mkdir()
        for path, content in _pictures(samples, names):
            (folder / path).write_bytes(content)


def folder_names(class_names: Sequence[str]) -> list[str]:
    """A directory for each class: its name without what systems refuse in names, and its label where that is taken."""
    found: list[str] = []
    for label, name in enumerate(class_names):
        safe = re.sub(r'[/\\:*?"<>|\x00-\x1f\x7f]', "_", class_name(name))[:_LONGEST_NAME].rstrip(". ")
        if not safe or is_system(safe) or safe.split(".")[0].upper() in _RESERVED:
            safe = f"_{safe.lstrip('.')}"
        while safe in found or (safe != name and safe in class_names):
            safe = f"{safe} ({label})"
        found.append(safe)
    changed = [pair for pair in zip(class_names, found, strict=True) if pair[0] != pair[1]]
    if changed:
        _logger.warning(
            '%d classes have names that cannot name directories; "%s", for one, is in the folder "%s"',
            len(changed), *changed[0],
        )  # fmt: skip
    return found


def _pictures(samples: Path, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Each sample's path in the folder, and its PNG file."""
    digits = len(str(len(read_labels(samples)) - 1))
    for shard in iterate_shards(samples):
        for image, label, sample_id in zip(shard.images, shard.labels.tolist(), shard.ids.tolist(), strict=True):
            encoded = io.BytesIO()
            picture(torch.from_numpy(image.copy()).movedim(2, 0), enlarge=False).save(encoded, format="PNG")
            directory = f"{names[int(label)]}/" if names else ""
            yield f"{directory}{sample_id:0{digits}d}.png", encoded.getvalue()


def _is_export(out: Path, samples: Path, names: Sequence[str]) -> bool:
    """True for the folder of an export that was killed after its last step, or is repeated."""
    present = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    for path, content in _pictures(samples, names):
        if path not in present or (out / path).read_bytes() != content:
            return False
        present.remove(path)
    return not present


main = partial(run_command, ExportConfig, export_samples)
