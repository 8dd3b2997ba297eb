"""Sample shards on disk: `manifest.json` beside `shard-00042.npz`, and their merging into the published batch layout.

Shard n of a directory holds the samples with ids [n * shard_size, (n + 1) * shard_size), so that resuming is listing
what is missing. The generation package decides a sample's seed and label.
"""

import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...files import atomic_write, write_json
from ...records import DamagedRecordError, Fields, check_record, differences, identified, read_record
from ..config import Labels
from .npz import opened_npz, refuse_damage, rows_within, write_array, write_rows
from .storage import NO_LABEL, StoredImages

MANIFEST_NAME = "manifest.json"
ENVIRONMENTS, MEASURED = "environments", "measured"
"""Keys of the manifest for the hardware and libraries that computed the samples, and for measurements; not compared."""
REMEDY = "make the samples again in another directory"
_FIELDS: Fields = {"num_samples": int, "shard_size": int}
_OPTIONAL_FIELDS: Fields = {"class_names": list[str] | None, ENVIRONMENTS: list[dict[str, Any]] | None}
_OPTIONAL_FIELDS |= {MEASURED: dict[str, Any] | None}


@dataclass(frozen=True)
class Shard:
    """A run of samples with consecutive ids; arrays of another type or shape are refused."""

    images: np.ndarray
    """(N, H, W, C) uint8 0..255."""
    labels: np.ndarray
    """(N,) int64, -1 for a sample without a label."""
    ids: np.ndarray
    """(N,) int64, ascending by one."""
    statistics: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    """Measured of these samples while they were made, by name; an evaluation has no use for them."""

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise ValueError(
                f"images must be uint8 of shape (N, H, W, C), got {self.images.dtype} {self.images.shape}; "
                f"convert with guided_diffusion.diffusion.images before writing"
            )
        for name, values in (("labels", self.labels), ("ids", self.ids)):
            if values.dtype != np.int64 or values.shape != self.images.shape[:1]:
                expected = f"int64 of shape ({len(self.images)},)"
                raise ValueError(f"{name} must be {expected}, got {values.dtype} {values.shape}")
        if (self.labels < NO_LABEL).any():
            raise ValueError(f"labels must be class indices, or {NO_LABEL} for none, got {self.labels.min()}")
        if (np.diff(self.ids) != 1).any():
            raise ValueError("ids must ascend by one")


@dataclass(frozen=True)
class ShardImages:
    """The images of a directory of samples."""

    directory: Path
    shape: tuple[int, int, int]

    def stream(self, indices: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        for shard in iterate_shards(self.directory, start=indices[0], stop=indices[-1] + 1):
            yield shard.images[rows_within(indices, first=int(shard.ids[0]), length=len(shard.ids))]


def recognise(path: Path) -> bool:
    """A directory with shards, or with a manifest of samples."""
    manifest = path / MANIFEST_NAME
    return path.is_dir() and (
        any(path.glob("shard-*.npz")) or (manifest.is_file() and b'"num_samples"' in manifest.read_bytes())
    )


def open_stored(path: Path, labels: Labels | None) -> StoredImages:
    """The samples of a directory, whose labels are their own."""
    manifest, numbers = read_manifest(path), read_labels(path)
    images = ShardImages(path, next(iterate_shards(path)).images.shape[1:])
    names = manifest.get("class_names")
    if names is not None and numbers.max() >= len(names):
        raise ValueError(
            f"an image of {path} has label {numbers.max()}, but there are only {len(names)} class names, for labels "
            f"from 0; images and names do not belong together: make them again"
        )
    return StoredImages(images=images, labels=numbers, class_names=tuple(names or ()), manifest=manifest)


def shard_path(directory: Path, n: int) -> Path:
    return directory / f"shard-{n:05d}.npz"


def write_shard(directory: Path, n: int, shard: Shard) -> Path:
    """Write shard n atomically and return its path. The same shard gives the same bytes: there is no time stamp."""
    path = shard_path(directory, n)
    with atomic_write(path) as file:
        arrays: dict[str, Any] = {"images": shard.images, "labels": shard.labels, "ids": shard.ids, **shard.statistics}
        np.savez(file, **arrays)
    return path


def read_shard(path: Path) -> Shard:
    """The shard stored at `path`, checked.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a damaged file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no shard at {path}")
    with _arrays(path) as arrays:
        return Shard(arrays["images"], arrays["labels"], arrays["ids"])


@contextmanager
def _arrays(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    damaged = refuse_damage(f"{path} is damaged", remedy="delete it and run the sampling command again")
    with damaged, opened_npz(path) as arrays:
        yield arrays


def read_labels(directory: Path) -> np.ndarray:
    """The labels of all samples (N,) int64 in the order of their ids, -1 for none; images are not read.

    Raises:
        ValueError: shards are missing or damaged, or do not make up the number of samples.
    """
    labels = [arrays["labels"] for arrays in read_statistics(directory)]
    joined, num_samples = np.concatenate(labels), read_manifest(directory)["num_samples"]
    if len(joined) != num_samples:
        raise ValueError(f"{directory} holds {len(joined)} labels of {num_samples} samples; make them again")
    return joined


def read_statistics(directory: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """Labels, ids and statistics of each shard, errors as `complete_shards`; images are not read."""
    for path in complete_shards(directory):
        with _arrays(path) as arrays:
            yield {"labels": arrays["labels"]} | {name: arrays[name] for name in arrays if name != "images"}


def record_measured(directory: Path, measured: Mapping[str, Any]) -> None:
    """Write what was measured of a directory's samples into its manifest."""
    stored = read_manifest(directory)
    if stored.get(MEASURED) != _as_json(measured):
        write_json(directory / MANIFEST_NAME, stored | {MEASURED: _as_json(measured)})


def missing_shards(directory: Path, num_samples: int, shard_size: int) -> list[int]:
    """The numbers of the shards still to make, ascending.

    A shard counts as made if a file of its name ends as an npz must; only `read_shard` checks the content.
    """
    total = -(-num_samples // shard_size)
    made = _made_shards(directory, total)
    return [n for n in range(total) if n not in made]


def _made_shards(directory: Path, total: int) -> set[int]:
    """The numbers below `total` of the shards that are there."""
    numbers = (re.fullmatch(r"shard-(\d{5,})\.npz", path.name) for path in directory.glob("shard-*.npz"))
    found = {int(number[1]) for number in numbers if number}
    return {n for n in found if n < total and zipfile.is_zipfile(shard_path(directory, n))}


def open_manifest(
    directory: Path, manifest: Mapping[str, Any], *, environment: Mapping[str, Any] | None = None
) -> None:
    """Claim `directory` for the samples that `manifest` describes: write it if there is none, otherwise compare.

    manifest: JSON (tuples count as lists) with at least `num_samples` and `shard_size`; evaluation matches labels by
        its `class_names`, if there are classes.
    environment: the hardware and libraries of this run, added to those of earlier runs.
    """
    check_manifest(directory, manifest)
    stored = read_manifest(directory) if (directory / MANIFEST_NAME).exists() else None
    updated = _as_json(manifest) if stored is None else dict(stored)
    known = updated.get(ENVIRONMENTS, [])
    if environment is not None and _as_json(environment) not in known:
        updated[ENVIRONMENTS] = [*known, _as_json(environment)]
    if updated != stored:
        write_json(directory / MANIFEST_NAME, updated)


def check_manifest(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a directory that belongs to other samples. Writes nothing.

    The environment is not compared, nor are names with a SHA-256 beside them. An option that is null counts as absent.

    Raises:
        ValueError: fields differ from the stored manifest, all of them named; or one of the two is no manifest; or the
            directory holds shards of which no manifest tells how they were made.
    """
    for name in ("num_samples", "shard_size"):
        if not isinstance(manifest.get(name), int):
            raise ValueError(f"a manifest needs an integer {name}, got {manifest.get(name)!r}")
    wanted = _as_json(manifest)
    there = (directory / MANIFEST_NAME).exists()
    if not there and any(directory.glob("shard-*.npz")):
        raise ValueError(f"{directory} holds shards without a {MANIFEST_NAME}, made with unknown settings; {REMEDY}")
    stored = settings_of(read_manifest(directory)) if there else wanted
    differing = differences(identified(stored), identified(wanted))
    if differing:
        listing = "\n".join(f"  {difference}" for difference in differing)
        raise ValueError(
            f"{directory} already holds samples made with other settings:\n{listing}\n"
            f"give another --out, or the same settings to continue there"
        )


def settings_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest without the environments that computed the samples and without what was measured of them."""
    return {key: value for key, value in manifest.items() if key not in (ENVIRONMENTS, MEASURED)}


def _as_json(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(manifest, allow_nan=False))


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a sample directory.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it cannot be read.
    """
    path = directory / MANIFEST_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{directory} holds no {MANIFEST_NAME}, so it is not a directory of samples")
    try:
        manifest = read_record(path, _FIELDS)
        check_record(manifest, _OPTIONAL_FIELDS, source=path)
        if manifest["num_samples"] < 1 or manifest["shard_size"] < 1:
            raise DamagedRecordError(f"{path} is damaged: num_samples and shard_size must be positive")
    except DamagedRecordError as error:
        raise DamagedRecordError(f"{error}; {REMEDY}") from None
    return manifest


def complete_shards(directory: Path) -> list[Path]:
    """The paths of all shards that the manifest announces, in order.

    Raises:
        ValueError: some are missing.
    """
    manifest = read_manifest(directory)
    total = -(-manifest["num_samples"] // manifest["shard_size"])
    made = _made_shards(directory, total)
    if missing := total - len(made):  # which may be any number that a manifest holds
        some = ", ".join(map(str, islice((n for n in range(total) if n not in made), 10)))
        found = f"{directory} lacks {missing} of its {total} shards ({some}{', ...' if missing > 10 else ''})"
        raise ValueError(f"{found}; run the sampling command again to make them")
    return [shard_path(directory, n) for n in range(total)]


def iterate_shards(directory: Path, *, start: int = 0, stop: int | None = None) -> Iterator[Shard]:
    """The samples with ids [start, stop), shard by shard, the outer two cut to the range.

    Raises:
        ValueError: shards are missing or damaged, or hold other ids than their number says.
    """
    manifest = read_manifest(directory)
    num_samples, size = manifest["num_samples"], manifest["shard_size"]
    end = num_samples if stop is None else stop
    if start >= end:
        return
    for n, path in list(enumerate(complete_shards(directory)))[start // size : -(-end // size)]:
        shard = read_shard(path)
        first, last = n * size, min((n + 1) * size, num_samples)
        if not np.array_equal(shard.ids, np.arange(first, last)):
            raise ValueError(
                f"{path} does not hold the ids {first}..{last - 1}; delete it and run the sampling command again"
            )
        cut = slice(max(start - first, 0), end - first)
        yield Shard(images=shard.images[cut], labels=shard.labels[cut], ids=shard.ids[cut])


def merged_npz(directory: Path, out: Path) -> int:
    """Write all samples of `directory` in the published layout and return their number.

    `out` gets `arr_0` (N, H, W, C) uint8 and, unless no sample has a label, `arr_1` (N,) int64, uncompressed as
    `numpy.savez` would. Holds one shard in memory.
    """
    labels = read_labels(directory)
    shape = next(iterate_shards(directory)).images.shape[1:]
    with atomic_write(out) as file, zipfile.ZipFile(file, "w") as archive:
        images = (shard.images for shard in iterate_shards(directory))
        write_rows(archive, "arr_0", images, shape=(len(labels), *shape))
        if (labels != NO_LABEL).any():
            write_array(archive, "arr_1", labels)
    return len(labels)
