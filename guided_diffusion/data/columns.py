"""Numbers in the columns of a table: values of images that training learns to predict in place of classes."""

import csv
import io
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from unicodedata import normalize

import torch
from torch import Tensor

from .image_set import ImageSet


def column_values(images: ImageSet, table: Path, columns: Sequence[str]) -> Tensor:
    """The numbers of each image, (N, K) float64, in columns of a CSV file whose column "file" names it.

    table: looked for below the path of the images first. Files are named relative to that path; the table may name
    others as well.

    Raises:
        FileNotFoundError: no such table.
        ValueError: a column or an image that it lacks, a file named twice, or a value that is no finite number.
    """
    source = images.path / table if (images.path / table).is_file() else table
    if not source.is_file():
        raise FileNotFoundError(f"there is no {table}, neither in {images.path} nor from here; give --data.labels")
    row_of = _rows(source, columns)
    paths = [place.relative_to(images.path) if place.is_relative_to(images.path) else place for place in images.paths]
    files = [normalize("NFC", path.as_posix()) for path in paths]
    missing = [file for file in files if file not in row_of]
    if missing:
        raise ValueError(
            f"{source} has no row for {len(missing)} of the {len(files)} images of {images.path}, the first "
            f"{missing[0]}; files are named relative to {images.path}"
        )
    return torch.tensor([row_of[file] for file in files], dtype=torch.float64)


def _rows(source: Path, columns: Sequence[str]) -> dict[str, list[float]]:
    """The numbers of each file that a table names."""
    row_of: dict[str, list[float]] = {}
    try:
        reader = csv.DictReader(io.StringIO(source.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
        header = [*(reader.fieldnames or ())]
        for name in ("file", *columns):
            if header.count(name) != 1:
                found = "two columns" if name in header else "no column"
                raise ValueError(f'{source} has {found} "{name}": its first line is {",".join(header)!r}')
        for row in reader:
            line = f"line {reader.line_num} of {source}"
            if None in row or None in row.values():
                raise ValueError(f"{line} has not the {len(header)} values of the first line")
            file = normalize("NFC", row["file"])
            if file in row_of:
                raise ValueError(f"{line} names {file} again; give each file one row")
            row_of[file] = [_number(row[name], f'{line}: "{name}" of {file}') for name in columns]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{source} is no CSV table of UTF-8 text ({error})") from error
    return row_of


def _number(text: str, place: str) -> float:
    with suppress(ValueError):
        if math.isfinite(number := float(text)):
            return number
    raise ValueError(f'{place} is "{text}", where a finite number was expected')
