"""Grey or colour: the mode of a set of images, settled over the headers of all before any pixel is decoded."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from .config import Mode
from .crops import DamagedImageError, damage_named, header_mode
from .formats.storage import EncodedImages

_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N")
# Headers are read at about 16,000 files a second in one thread (6,000 in four threads); a shorter wait needs no bar.
_FILES_WORTH_A_BAR = 20_000


def header_modes(images: EncodedImages, root: Path, *, skip_broken: bool) -> list[str | None]:
    """Pillow's mode of each image, None for a broken one that is skipped. root: the user's path.

    Raises:
        DamagedImageError: a broken image that is not to be skipped.
        OSError: an image that cannot be read for other reasons.
        ValueError: no image is sound.
    """
    modes: list[str | None] = []
    # A bar outside the drivers: this is the one long thing that happens before a driver has anything to report.
    few = len(images) <= _FILES_WORTH_A_BAR
    for index in tqdm(range(len(images)), desc="reading image headers", unit="files", disable=few):
        try:
            modes.append(_header_mode(images, index))
        except DamagedImageError:
            if not skip_broken:
                raise
            modes.append(None)
    if not any(modes):
        first = images.path(0).relative_to(root)
        raise ValueError(f"none of the {len(modes)} images in {root} can be read; the first is {first}")
    return modes


def _header_mode(images: EncodedImages, index: int) -> str:
    path = images.path(index)
    try:
        with damage_named(path), images.open(index) as file:
            return header_mode(file)
    except FileNotFoundError as lost:
        if path.is_symlink():  # it was listed just now: the storage is well, the link is not
            raise DamagedImageError(f"No such file behind the link {path}") from lost
        raise


def common_mode(
    modes: Sequence[str | None], images: EncodedImages, root: Path, *, option: Literal["--data.mode", "--channels"]
) -> Mode:
    """The mode of all images that have one.

    option: of the command line, that converts images to another mode.

    Raises:
        ValueError: several modes, or one that is neither L nor RGB; the message says how to convert.
    """
    counts = Counter(mode for mode in modes if mode is not None)
    colour, grey = ("RGB", "L") if option == "--data.mode" else ("3", "1")
    if len(counts) > 1:
        listed = ", ".join(f"{count} {mode}" for mode, count in counts.most_common())
        examples = " and ".join(
            f"{images.path(modes.index(mode)).relative_to(root)} is {mode}" for mode, _ in counts.most_common(2)
        )
        to_grey = f", {option} {grey} all to grey" if option == "--data.mode" else ""
        raise ValueError(
            f"images of several modes in {root}: {listed}; for example {examples}; "
            f"{option} {colour} converts all to colour{to_grey}"
        )
    (mode,) = counts
    if mode == "L" or mode == "RGB":
        return mode
    raise ValueError(
        f"the images in {root} are of mode {mode}, which is neither grey (L) nor colour (RGB); "
        f"{option} {grey if mode in _GREY_MODES else colour} converts them"
    )


def mode_with_channels(modes: Sequence[str | None], images: EncodedImages, channels: int) -> Mode:
    """The mode with so many channels; grey images may become coloured, never the reverse.

    Raises:
        ValueError: neither 1 nor 3 channels, or a colour image where 1 is asked for.
    """
    if channels == 3:
        return "RGB"
    if channels != 1:
        raise ValueError(
            f"pictures have 1 or 3 channels, {channels} were asked for; compare {images.path(0)} with images of 1 or 3"
        )
    for index, mode in enumerate(modes):
        if mode not in (None, *_GREY_MODES):
            raise ValueError(
                f"{images.path(index)} is in colour where grey pictures were expected; convert one of the sets"
            )
    return "L"
