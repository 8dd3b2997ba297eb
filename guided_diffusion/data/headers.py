"""What the headers of a storage's images tell before any pixel is decoded: which are broken, and their common mode."""

from collections import Counter
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from .crops import DamagedImageError, damage_named, header_mode
from .storage import Storage

_GREY_MODES = ("1", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N")
# Headers are read at about 16,000 files a second in one thread (6,000 in four threads); a shorter wait needs no bar.
_FILES_WORTH_A_BAR = 20_000


def header_modes(
    storage: Storage, root: Path, *, on_error: Literal["stop", "skip"]
) -> tuple[list[str | None], tuple[Path, ...]]:
    """Pillow's mode of each image, None for a broken one, and the paths of the broken ones.

    root: the user's path, which those of the storage begin with.

    Raises:
        DamagedImageError: a broken image, unless they are to be skipped.
        OSError: an image that cannot be read for other reasons, whatever `on_error` says.
        ValueError: no image is sound.
    """
    modes: list[str | None] = []
    skipped: list[Path] = []
    # A bar outside the drivers: this is the one long thing that happens before a driver has anything to report.
    few = len(storage) <= _FILES_WORTH_A_BAR
    for index in tqdm(range(len(storage)), desc="reading image headers", unit="files", disable=few):
        try:
            modes.append(_header_mode(storage, index))
        except DamagedImageError as damage:
            if on_error == "stop":
                raise stopped(damage) from damage
            modes.append(None)
            skipped.append(storage.path(index))
    if not any(modes):
        first = storage.path(0).relative_to(root)
        raise ValueError(f"none of the {len(modes)} images in {root} can be read; the first is {first}")
    return modes, tuple(skipped)


def _header_mode(storage: Storage, index: int) -> str:
    path = storage.path(index)
    try:
        with damage_named(path), storage.open(index) as file:
            return header_mode(file)
    except FileNotFoundError as lost:
        if path.is_symlink():  # it was listed just now: the storage is well, the link is not
            raise DamagedImageError(f"No such file behind the link {path}") from lost
        raise


def stopped(damage: DamagedImageError) -> DamagedImageError:
    """The same error with the ways out."""
    return DamagedImageError(
        f"{damage}; repair or remove the file, or pass --data.on_error skip to do without such files"
    )


def common_mode(storage: Storage, root: Path, modes: list[str | None]) -> Literal["L", "RGB"]:
    """The mode of all images that have one.

    Raises:
        ValueError: several, or one that is neither L nor RGB; the message says how to convert.
    """
    counts = Counter(mode for mode in modes if mode is not None)
    if len(counts) > 1:
        listed = ", ".join(f"{count} {mode}" for mode, count in counts.most_common())
        examples = " and ".join(
            f"{storage.path(modes.index(mode)).relative_to(root)} is {mode}" for mode, _ in counts.most_common(2)
        )
        raise ValueError(
            f"images of several modes in {root}: {listed}; for example {examples}; "
            f"--data.mode RGB converts all to colour, --data.mode L all to grey"
        )
    (mode,) = counts
    if mode == "L" or mode == "RGB":
        return mode
    raise ValueError(
        f"the images in {root} are of mode {mode}, which is neither grey (L) nor colour (RGB); "
        f"--data.mode {'L' if mode in _GREY_MODES else 'RGB'} converts them"
    )
