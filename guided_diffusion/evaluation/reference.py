"""Reference files: stored statistics of a set of images.

The published layout is an npz with `mu, sigma` of the pooled features, `mu_s, sigma_s` of the spatial ones, and
sometimes images `arr_0`. Files written here also name the extractor, the number of images, and under `record`, as JSON,
the images.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.formats.npz import DAMAGED_FILE_ERRORS, npz_members, opened_npz, write_array, write_rows
from ..data.image_set import ImageSet
from ..files import atomic_write
from ..records import Fields, parse_record
from .metrics.frechet import checked_covariance
from .statistics import Gaussian

_RECORD: Fields = {"image_size": list[int] | None, "channels": int | None, "resize": str | None}


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Statistics of a reference set as stored.

    spatial: None if the file has none. extractor_sha256 None: published statistics, of the 2015 Inception network.
    record: description of the images, JSON values; None in published files.
    """

    pooled: Gaussian
    spatial: Gaussian | None = None
    has_images: bool = False
    extractor: str | None = None
    extractor_sha256: str | None = None
    record: Mapping[str, Any] | None = None


def read_reference(path: Path) -> Reference | None:
    """The statistics in an npz of the published layout; None if it has no `mu` (a plain batch of images).

    Covariances are reduced to their symmetric part.

    Raises:
        ValueError: a damaged file, or arrays that are no mean and covariance.
    """
    members = npz_members(path)
    if "mu" not in members:
        return None
    try:
        with opened_npz(path) as arrays:
            texts = {name: str(arrays[name]) for name in ("extractor", "extractor_sha256", "record") if name in members}
            record = parse_record(texts.pop("record", "{}"), _RECORD, source="record")
            absent = {name for name in _RECORD if record[name] is None}
            return Reference(
                pooled=_stored_gaussian(arrays, "mu", "sigma"),
                spatial=_stored_gaussian(arrays, "mu_s", "sigma_s") if "mu_s" in members else None,
                has_images="arr_0" in members,
                record={name: value for name, value in record.items() if name not in absent} or None,
                **texts,
            )
    except (*DAMAGED_FILE_ERRORS, TypeError) as error:  # TypeError: several values of num_images
        raise ValueError(f"{path} is no reference file ({error}); make or fetch it again") from error


def write_reference(
    path: Path, reference: Reference, *, images: ImageSet | None = None, kept: Sequence[int] = ()
) -> None:
    """Write a reference file, whole or not at all.

    images, kept: a set and the ascending indices of its images that go into `arr_0`; they are streamed.
    """
    pooled, spatial = reference.pooled, reference.spatial
    arrays: dict[str, Any] = {"mu": pooled.mean.cpu().numpy(), "sigma": pooled.cov.cpu().numpy()}
    if spatial is not None:
        arrays |= {"mu_s": spatial.mean.cpu().numpy(), "sigma_s": spatial.cov.cpu().numpy()}
    arrays |= {"extractor": reference.extractor, "extractor_sha256": reference.extractor_sha256}
    arrays["record"] = json.dumps(reference.record or {}, allow_nan=False)
    if pooled.count is not None:
        arrays["num_images"] = pooled.count
    with atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, values in arrays.items():
            write_array(archive, name, np.array(values))
        if images is not None and len(kept):
            write_rows(archive, "arr_0", images.stream(kept), shape=(len(kept), *images.shape))


def _stored_gaussian(arrays: Any, mean_name: str, cov_name: str) -> Gaussian:  # arrays: numpy's NpzFile, untyped there
    values = {name: arrays[name] for name in (mean_name, cov_name)}
    for name, stored in values.items():
        if stored.dtype.kind not in "fiu":
            raise ValueError(f"{name} holds {stored.dtype.str.lstrip('|=')}, not real numbers")
    mean, cov = (torch.from_numpy(stored.astype(np.float64)) for stored in values.values())
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
        raise ValueError(f"{mean_name} {tuple(mean.shape)} and {cov_name} {tuple(cov.shape)} are not (D,) and (D, D)")
    if not (torch.isfinite(mean).all() and torch.isfinite(cov).all()):
        raise ValueError(f"{mean_name} or {cov_name} has values that are not finite")
    try:
        cov = checked_covariance(cov)
    except ValueError as error:
        raise ValueError(f"{cov_name} is no covariance: {error}") from error
    return Gaussian(mean, cov, int(arrays["num_images"]) if "num_images" in arrays else None)
