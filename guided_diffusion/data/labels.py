"""Class numbers of labels, tables of file names and labels, and the names of ImageNet's classes."""

import csv
import io
import json
import logging
import re
import runpy
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .config import Labels

_logger = logging.getLogger(__name__)

Label = str | int
LabelsAndNames = tuple[NDArray[np.int64], tuple[str, ...]]

TABLES = 'CSV with the columns file,label, JSON {"FILE": LABEL, ..} or JSON {"labels": [["FILE", LABEL], ..]}'

# A label table with a stray huge number must not become a list of a thousand million names.
_MOST_CLASSES = 1_000_000


def numbered(labels: Sequence[Label], *, source: Path) -> LabelsAndNames:
    """The class number of each label, and the names of the classes.

    Labels that are all whole numbers are class numbers already, and their digits the names of the classes 0 to the
    largest. Any others are names, numbered in sorted order; see `class_name`.

    source: of the labels, for messages. Refused are negative numbers, and those that make over a million classes.
    """
    if not all(re.fullmatch(r"-?(0|[1-9]\d*)", str(label), re.ASCII) for label in labels):  # 007 is a name
        _doubt_names([str(label) for label in labels], source)
        return indexed([str(label) for label in labels])
    numbers = [int(label) for label in labels]
    if min(numbers) < 0:
        raise ValueError(
            f"{numbers.count(min(numbers))} labels of {source} are {min(numbers)}; class numbers begin at 0, and every "
            f"image needs one"
        )
    if max(numbers) >= _MOST_CLASSES:
        raise ValueError(f"a label of {source} is {max(numbers)}; class numbers end below {_MOST_CLASSES:,}")
    return np.array(numbers, dtype=np.int64), tuple(str(number) for number in range(max(numbers) + 1))


def _doubt_names(labels: Sequence[str], source: Path) -> None:
    """Warn of names that look like numbers and are sorted otherwise: 1.0, or 10 beside unknown."""
    numeric = [label for label in labels if re.fullmatch(r"-?\d+(\.0*)?", label)]
    of_one_width = len({len(label) for label in labels}) == 1 and all(label.isdecimal() for label in labels)
    if numeric and not of_one_width:
        other = next((label for label in labels if label not in set(numeric)), None)
        beside = "" if other is None else f', beside others such as "{other}"'
        _logger.warning(
            '%d of the %d labels of %s look like numbers ("%s")%s; all are taken for names and sorted as text: class '
            "numbers are whole, from 0",
            len(numeric), len(labels), source, numeric[0], beside,
        )  # fmt: skip


def indexed(classes: Sequence[str], class_names: Sequence[str] | None = None) -> LabelsAndNames:
    """The number of each class among the class names, None: those that occur; `class_name` of them, sorted."""
    forms = {name: class_name(name) for name in {*classes, *(class_names or ())}}
    names = tuple(sorted(set(forms.values())))
    number_of = {name: number for number, name in enumerate(names)}
    if len(names) < len(forms):
        merged = next(form for form, count in Counter(forms.values()).items() if count > 1)
        _logger.warning(
            'classes whose names differ only in blanks at their ends or in the encoding of accents are one: "%s"',
            merged,
        )
    return np.array([number_of[forms[name]] for name in classes], dtype=np.int64), names


def class_name(text: str) -> str:
    """The one form of a class's name: macOS decomposes accents in names of files, and tables have stray blanks."""
    return _composed(text).strip()


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def matched(class_names: Sequence[str], known: Sequence[str]) -> list[int]:
    """The place of each class among the known ones, -1 for an unknown one; `class_name` of them, if not equal."""
    place = {class_name(name): number for number, name in enumerate(known)}
    place |= {name: number for number, name in enumerate(known)}
    return [place.get(name, place.get(class_name(name), -1)) for name in class_names]


def parse_label(text: str | int, class_names: Sequence[str]) -> int:
    """The label of 3, "3", "label:3" or "cat".

    Raises:
        ValueError: a class that is not there, or one class's number that is another's name.
    """
    wanted, known, n = class_name(str(text)), _labels_of_names(tuple(class_names)), len(class_names)
    is_label = wanted.startswith("label:") and wanted not in known
    number = wanted.removeprefix("label:").strip() if is_label else wanted
    found = set(known.get(wanted, ())) if isinstance(text, str) and not is_label else set[int]()
    if re.fullmatch(r"0|[1-9]\d*", number, re.ASCII) and int(number) < n:
        found.add(int(number))
    if len(found) == 1:
        return found.pop()
    if found:
        readings = " or ".join(f'label:{label} for "{class_names[label]}"' for label in sorted(found))
        raise ValueError(f'"{text}" is the number of one class and the name of another; write {readings}')
    shown = ", ".join(class_names[:10]) + (", .." if n > 10 else "")
    quotes = "; a name with a comma stands in double quotes" if any("," in name for name in class_names) else ""
    raise ValueError(f'there is no label "{text}": the model has {n} classes, labels 0 to {n - 1} ({shown}){quotes}')


def parse_labels(text: str, class_names: Sequence[str]) -> tuple[int, ...]:
    """The labels of "0,1,2" or "cat,dog"; a name with a comma stands in double quotes, or alone.

    Raises:
        ValueError: as `parse_label`, or a text that is one class's name and a list of others'.
    """
    alone = _labels_of_names(tuple(class_names)).get(class_name(text), ()) if "," in text else ()
    parts = next(csv.reader([text], skipinitialspace=True)) or [""]
    try:
        labels = tuple(parse_label(part, class_names) for part in parts)
    except ValueError:
        if alone:
            return (parse_label(text, class_names),)
        raise
    if alone:
        raise ValueError(f'"{text}" is the name of one class and a list of others; write label:{alone[0]} for the one')
    return labels


@cache
def _labels_of_names(class_names: tuple[str, ...]) -> Mapping[str, Sequence[int]]:
    """Labels that a name may mean: those of its own form and, for a number, those of names such as 007."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for label, name in enumerate(map(class_name, class_names)):
        found[name].append(label)
    for name, labels in list(found.items()):
        if re.fullmatch(r"0\d+", name, re.ASCII):
            found[str(int(name))] += labels
    return dict(found)


def renumbered(
    labels: NDArray[np.int64], class_names: Sequence[str], imposed: Sequence[str], *, path: Path
) -> NDArray[np.int64]:
    """Labels numbered by the imposed class names, which must hold all of theirs. path: of the data, for messages."""
    if len(set(imposed)) < len(imposed):
        raise ValueError(f"class names must differ from each other: {', '.join(imposed)}")
    numbers = np.array(matched(class_names, imposed), dtype=np.int64)
    unknown = [class_names[label] for label in np.unique(labels) if numbers[label] < 0]
    if unknown:
        known = ", ".join([*imposed[:10], ".."] if len(imposed) > 10 else imposed)
        raise ValueError(
            f"{path} holds {len(unknown)} classes, '{unknown[0]}' for one, that are not among the {len(imposed)} asked "
            f"for ({known}); rename or remove these classes, or give data of the same classes"
        )
    return numbers[labels]


def class_doubts(
    labels: NDArray[np.int64], class_names: Sequence[str], *, source: Path, by: Labels | None
) -> list[str]:
    """Doubts about classes without images, and about labels that nearly number the images.

    source, by: path and labels of the data, for messages.
    """
    counts = np.bincount(labels[labels >= 0], minlength=len(class_names))
    empty = [name for name, count in zip(class_names, counts, strict=True) if not count]
    found = list[str]()
    cases = Counter(name.casefold() for name in class_names)
    twins = [name for name in class_names if cases[name.casefold()] > 1]
    if twins:
        found.append(f'{source} has classes whose names differ in case alone ("{twins[0]}", "{twins[1]}", ..)')
    if empty:
        shown = ", ".join(f'"{name}"' for name in empty[:5]) + (", .." if len(empty) > 5 else "")
        advice = "; class numbers begin at 0: subtract 1 from each label, or give names" if empty == ["0"] else ""
        found.append(f"{len(empty)} of the {len(counts)} classes of {source} have no images ({shown}){advice}")
    if len(counts) - len(empty) > max(2, len(labels) / 2):
        taken = 'the text of each file name up to its first "_"' if by == "filenames" else "the labels"
        found.append(
            f"{source} has {len(counts) - len(empty)} classes for {len(labels)} images, nearly one each: {taken} may "
            f"not be the class; check --data.labels"
        )
    return found


def table_labels(images: Sequence[str], content: bytes, *, root: Path, source: Path) -> list[Label]:
    """The label that a table gives each image.

    images: names of files relative to `root`, with "/", as the table names them.
    content: of the file `source`, by its suffix .csv or .json, see `TABLES`; it names each image once, and no other.
    """
    reader = {".csv": _csv_pairs, ".json": _json_pairs}.get(source.suffix.lower())
    if reader is None:
        raise ValueError(f"{source} is no table of labels; expected {TABLES}")
    try:
        pairs = reader(content.decode("utf-8-sig"), source)
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is not UTF-8 text ({error})") from error
    # The name of a file may come composed in the table and decomposed, from macOS, in the tree.
    images, pairs = [_composed(image) for image in images], [(_composed(file), label) for file, label in pairs]
    label_of, present = dict(pairs), set(images)
    twice = [file for file, count in Counter(file for file, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"{source} has {len(twice)} files more than once, the first {twice[0]}; give each one label")
    absent = [file for file in label_of if file not in present]
    if absent:
        raise ValueError(
            f"{source} labels {len(absent)} files that are no images of {root}, the first {absent[0]}; files are "
            f"named relative to it, for example {images[0]}"
        )
    unlabelled = sorted(present - label_of.keys())
    if unlabelled:
        raise ValueError(
            f"{source} has no label for {len(unlabelled)} of the {len(images)} images in {root}, the first "
            f"{unlabelled[0]}; add their labels or remove the images"
        )
    return [label_of[image] for image in images]


def _csv_pairs(text: str, source: Path) -> list[tuple[str, Label]]:
    rows = csv.reader(io.StringIO(text, newline=""))
    header = next(rows, [])
    if header != ["file", "label"]:
        raise ValueError(f"the first line of {source} is {','.join(header)!r}; expected file,label")
    pairs: list[tuple[str, Label]] = []
    for row in rows:
        if len(row) != 2 or not all(map(str.strip, row)):
            raise ValueError(f"line {rows.line_num} of {source} is {','.join(row)!r}; expected a file and its label")
        pairs.append((row[0], row[1].strip()))
    return pairs


def _json_pairs(text: str, source: Path) -> list[tuple[str, Label]]:
    try:
        # An object becomes a tuple of pairs: a dict would keep the last of two equal names, and say nothing.
        members = json.loads(text, object_pairs_hook=tuple)
    except json.JSONDecodeError as error:
        raise ValueError(f"{source} is not JSON ({error})") from error
    if not isinstance(members, tuple):
        raise ValueError(f"{source} is no table of labels; expected {TABLES}")
    stored = dict(members).get("labels")
    pairs: list[tuple[str, Label]] = []
    for pair in stored if isinstance(stored, list) else members:
        match pair:
            case [str() as file, str() | int() as label] if not isinstance(label, bool):
                pairs.append((file, label))
            case _:
                held = json.dumps(pair)
                raise ValueError(f"{source} holds {held} where a file and its label were expected: {TABLES}")
    return pairs


def imagenet_class_names() -> tuple[str, ...]:
    """torchvision's names, label 0 being the first of the sorted WordNet ids ("tench", n01440764).

    A name that occurs again gets its occurrence after it ("crane", "crane 2"), so that names tell classes apart.
    """
    # Importing torchvision takes a second and 170 MB; the list alone is in a file that imports nothing.
    package = find_spec("torchvision")
    assert package is not None
    assert package.origin is not None
    seen: Counter[str] = Counter()
    names = []
    for name in runpy.run_path(str(Path(package.origin).parent / "models" / "_meta.py"))["_IMAGENET_CATEGORIES"]:
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return tuple(names)
