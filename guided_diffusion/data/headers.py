"""Headers of encoded images, read or taken from the index of the last start, and the mode that they settle."""

from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from . import crops
from .config import DataConfig, Mode, Window
from .crops import DamagedImageError
from .decoder import refuse_unless_skipped
from .formats.folder import FolderImages
from .formats.storage import EncodedImages, IndexedImages, StoredImages, narrow
from .index import ROW, ImageIndex, opened_index
from .values import is_deep

GREY_MODES = ("1", "L", "LA", "F", "I", "I;16", "I;16B", "I;16L", "I;16N")
# Headers are read at about 16,000 files a second in one thread (6,000 in four threads); a shorter wait needs no bar.
_FEW_FILES = 20_000
_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class Headers:
    """All that is read of images before their pixels; few bytes an image, since every process holds it."""

    mode_numbers: NDArray[np.uint8]
    """(N,) which of the modes each image has."""
    modes: tuple[str, ...]
    """Pillow's modes by number, L where a window applies, "" for a broken image that is skipped."""
    sizes: NDArray[np.integer]
    """(N, 2) width and height in pixels, 0 for a broken one."""
    num_bytes: NDArray[np.integer] | None = None
    """(N,) size of each image's file; None where they are not files of their own."""
    turned: int = 0
    """Number of images that are turned as their EXIF orientation says."""
    animated: int = 0
    """Number of images with further frames or pages, of which the first is taken."""
    deep: int = 0
    """Number of images with grey of more than 8 bits."""

    @cached_property
    def counts(self) -> Counter[str]:
        """Number of images of each mode, in the order of their first ones; broken ones do not count."""
        numbers, first, counts = np.unique(self.mode_numbers, return_index=True, return_counts=True)
        found = {self.modes[numbers[place]]: int(counts[place]) for place in np.argsort(first)}
        return Counter({mode: count for mode, count in found.items() if mode})

    def having(self, *modes: str) -> NDArray[np.int64]:
        """Indices of the images of these modes."""
        numbers = [number for number, mode in enumerate(self.modes) if mode in modes]
        return np.flatnonzero(np.isin(self.mode_numbers, numbers))


def read_headers(
    stored: StoredImages, files: EncodedImages, root: Path, config: DataConfig | None, *, window: Window | None
) -> Headers:
    """The headers of all images; of prepared ones, which are of one kind, that of the first.

    root: the user's path. window: as `DataConfig.window`; a training refuses one without use.
    """
    count = len(stored.labels)
    new = ImageIndex(files, np.zeros(count if stored.mode is None else 1, ROW), [""])
    with opened_index(files, root) if isinstance(files, IndexedImages) else nullcontext(new) as index:
        _read(index, config)
    rows, known = index.rows, index.modes
    if not rows["mode"].any():
        first = files.path(0).relative_to(root)
        raise ValueError(f"none of the {count} images in {root} can be read; the first is {first}")
    deep = int(np.isin(rows["mode"], [number for number, mode in enumerate(known) if is_deep(mode)]).sum())
    if window is not None:
        if config is not None and not deep:
            raise ValueError(f"no image of {root} has grey of more than 8 bits; leave out --data.window")
        known = ["L" if is_deep(mode) else mode for mode in known]
    if stored.mode is not None:
        rows, known = np.broadcast_to(rows, (count,)), [stored.mode] * len(known)
    modes = tuple(dict.fromkeys(known))
    return Headers(
        mode_numbers=np.array([*map(modes.index, known)], np.uint8)[rows["mode"]], modes=modes,
        sizes=narrow(np.stack([rows["width"], rows["height"]], axis=1)),
        num_bytes=narrow(rows["state"][:, 0]) if isinstance(files, FolderImages) else None,
        turned=int(rows["turned"].sum()), animated=int(rows["animated"].sum()), deep=deep,
    )  # fmt: skip


def _read(index: ImageIndex, config: DataConfig | None) -> None:
    """Enter all headers that the index lacks; those of broken images that are skipped stay unknown."""
    unread, files = np.flatnonzero(index.rows["mode"] == 0), index.files
    # A bar outside the drivers: this is the one long thing that happens before a driver has anything to report.
    few = len(unread) <= _FEW_FILES
    with tqdm(total=len(unread), desc="reading image headers", unit="files", disable=few) as bar:
        for some in (unread[start : start + _AT_ONCE] for start in range(0, len(unread), _AT_ONCE)):
            index.look_at(some)
            for place in some.tolist():
                try:
                    with crops.damage_named(files.path(place)), files.open(place) as file, crops.opened(file) as image:
                        turned, animated = crops.orientation(image) > 1, crops.has_more_frames(image)
                        index.enter(place, image.mode, image.size, turned=turned, animated=animated)
                except DamagedImageError as damage:
                    refuse_unless_skipped(damage, config)
                except FileNotFoundError:
                    if not files.path(place).is_symlink():
                        raise
                    lost = DamagedImageError(f"No such file behind the link {files.path(place)}")
                    refuse_unless_skipped(lost, config)
            bar.update(len(some))


def common_mode(headers: Headers, files: EncodedImages, root: Path, *, in_training: bool) -> Mode:
    """The mode of all images that have one; several, or one that is neither L nor RGB, are refused.

    in_training: the command line that the messages name has --data.mode; that of an evaluation has --channels.
    """
    counts = headers.counts
    if len(counts) == 1 and counts.keys() <= {"L", "RGB"}:
        return "L" if "L" in counts else "RGB"
    grey, colour = ("--data.mode L", "--data.mode RGB") if in_training else ("--channels 1", "--channels 3")
    if len(counts) == 1:
        (mode,) = counts
        remedy = f"{grey if mode in GREY_MODES else colour} converts them"
        if mode == "RGBA":
            remedy += f", over white; {'--data.mode RGBA' if in_training else '--channels 4'} keeps alpha"
        if is_deep(mode):
            remedy += f", by the high 8 of 16 bits; --{'data' if in_training else 'protocol'}.window 0 4095 those of 12"
        raise ValueError(
            f"the images in {root} are of mode {mode}, which is neither grey (L) nor colour (RGB); {remedy}"
        )
    listed = ", ".join(f"{count} {mode}" for mode, count in counts.most_common())
    firsts = {mode: files.path(headers.having(mode)[0]).relative_to(root) for mode, _ in counts.most_common(2)}
    examples = [f"{path} is {mode}" for mode, path in firsts.items()]
    raise ValueError(
        f"images of several modes in {root}: {listed}; for example {' and '.join(examples)}; {colour} converts all to "
        f"colour{f', {grey} all to grey' if in_training else ''}"
    )


def mode_with_channels(headers: Headers, files: EncodedImages, root: Path, channels: int | None) -> Mode:
    """The mode with so many channels, None: the common one; grey images may become coloured, not the reverse."""
    if channels is None:
        return common_mode(headers, files, root, in_training=False)
    if channels in (3, 4):
        return "RGB" if channels == 3 else "RGBA"
    if channels != 1:
        raise ValueError(f"pictures have 1, 3 or 4 channels, and {channels} were asked for; compare {files.path(0)} so")
    if coloured := headers.counts.keys() - GREY_MODES:
        first = files.path(headers.having(*coloured)[0])
        raise ValueError(f"{first} is in colour where grey pictures were expected; convert one of the sets")
    return "L"
