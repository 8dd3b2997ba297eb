"""The one sentence about a set of images, and the doubts about it, that training, preparation and evaluation show."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from .crops import DamagedImageError
from .decoder import DecodedImages
from .headers import GREY_MODES
from .image_set import ImageSet
from .labels import class_doubts
from .subset import evenly_spaced
from .values import LOOKED_AT, value_doubts

_MOST_LISTED = 8


def summary(images: ImageSet) -> str:
    """The path, the images that are used, by extension, and the files that are left out."""
    height, width, _ = images.shape
    colours = "grey" if images.mode == "L" else images.mode
    parts = [f"{counted(len(images), 'image')}{_classes(images)}, {width}x{height} {colours}, {_kinds(images)}"]
    stored = images.stored
    if stored is not None and stored.left_out:
        parts.append(f"left out: {listed_files(stored.left_out)}")
    if images.skipped:
        parts.append(f"{len(images.skipped):,} broken ones left out ({images.skipped[0]}, ..)")
    return "; ".join([f"{images.path}: {parts[0]}", *parts[1:], *_oddities(images)])


def doubts(images: ImageSet) -> list[str]:
    """Sentences about a set of images that hardly is as its user means it to be."""
    found: list[str] = []
    source, headers = images.source, images.headers
    if isinstance(source, DecodedImages) and source.config is not None:
        found += class_doubts(images.labels.numpy(), images.class_names, source=images.path, by=images.labelled_by)
    elif headers is not None and (small := _smaller(images)):
        found.append(
            f"{small:,} of the {counted(len(images), 'image')} of {images.path} are smaller than "
            f"{images.image_size} pixels and were enlarged: numbers against them measure the enlargement as well"
        )
    return [*found, *_value_doubts(images)]


def repetitions(images: ImageSet, samples: int) -> str:
    """A sentence: the draws of an image of the smallest and of the largest class in a balanced training."""
    counts = np.bincount(images.labels.numpy(), minlength=len(images.class_names))
    seen = np.flatnonzero(counts)
    names = images.class_names or tuple(map(str, range(len(counts))))

    def times(label: int) -> str:
        often = f"{samples / len(seen) / counts[label]:.3g}"
        return f"each of the {counted(int(counts[label]), 'image')} of {names[label]} is drawn {often} times"

    smallest, largest = int(seen[counts[seen].argmin()]), int(seen[counts[seen].argmax()])
    return f"classes are drawn equally often: {times(smallest)}, {times(largest)}"


def _value_doubts(images: ImageSet) -> list[str]:
    """A doubt about pictures or arrays that fill a small part of the range of values; not of samples made here."""
    if images.manifest is not None:
        return []
    source, looked_at = images.source, list[NDArray[np.uint8]]()
    if isinstance(source, DecodedImages):
        for index in evenly_spaced(len(images), most=LOOKED_AT):
            with suppress(DamagedImageError):  # which is reported where the image is needed
                looked_at.append(source.pixels(index))
    else:  # arrays, which are read from their beginning
        looked_at = [*images.read(range(min(LOOKED_AT, len(images)))).numpy()]
    is_deep = images.headers is not None and images.headers.deep > 0
    return value_doubts(looked_at, path=images.path, window=images.window, is_deep=is_deep)


def _classes(images: ImageSet) -> str:
    if not images.is_labelled:
        return ""
    labels = images.labels[images.labels >= 0].numpy()
    names = images.class_names or tuple(map(str, range(int(labels.max()) + 1)))
    counts = np.bincount(labels, minlength=len(names))
    text = f" of {counted(len(names), 'class', 'classes')}"
    if images.labelled_by in (None, "folders"):
        return text
    listed = [f"{name} {count:,}" for name, count in zip(names, counts, strict=True)][:_MOST_LISTED]
    return f"{text} ({', '.join([*listed, '..'] if len(names) > len(listed) else listed)})"


def _kinds(images: ImageSet) -> str:
    kinds = {} if images.stored is None else images.stored.kinds
    if len(kinds) < 2:
        return next(iter(kinds), images.format)
    return " + ".join(f"{count:,} {kind}" for kind, count in Counter(kinds).most_common())


def _oddities(images: ImageSet) -> list[str]:
    headers = images.headers
    if headers is None:
        return []
    grey = sum(headers.counts.get(mode, 0) for mode in GREY_MODES) if images.channels == 3 else 0
    small = _smaller(images)
    found = {
        f"{headers.turned:,} turned by their EXIF orientation": headers.turned,
        f"{headers.animated:,} with further frames or pages, of which the first is taken": headers.animated,
        f"{grey:,} grey among colour": grey,
        f"{small:,} smaller than {images.image_size} pixels, which are enlarged": small,
    }
    return [text for text, count in found.items() if count]


def _smaller(images: ImageSet) -> int:
    """Number of pictures that the crop enlarges."""
    if images.headers is None or not isinstance(images.source, DecodedImages) or images.source.size is None:
        return 0
    shorter = images.headers.sizes.min(axis=1)
    return int(((shorter > 0) & (shorter < images.source.size)).sum())


def listed_files(left_out: Mapping[str, Sequence[str]]) -> str:
    """Files by kind with the first of each, the most frequent kinds first."""
    kinds = sorted(left_out.items(), key=lambda entry: -len(entry[1]))
    listed = [
        f"{len(names):,} {kind} ({names[0]}{', ..' if len(names) > 1 else ''})" for kind, names in kinds[:_MOST_LISTED]
    ]
    rest = sum(len(names) for _, names in kinds[_MOST_LISTED:])
    return ", ".join([*listed, f"{rest:,} others"] if rest else listed)


def counted(count: int, one: str, many: str | None = None) -> str:
    """A number and its noun: "1 image", "2 images", "no images"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}" if count else f"no {many or one + 's'}"
