"""The mode of a set of images, grey or colour, settled over the headers of all before any pixel is decoded."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from .config import CHANNELS, DataConfig, Mode
from .crops import DamagedImageError, damage_named, header_mode
from .decoder import stopped
from .formats.storage import EncodedImages, StoredImages

_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N")
# Headers are read at about 16,000 files a second in one thread (6,000 in four threads); a shorter wait needs no bar.
_FILES_WORTH_A_BAR = 20_000


def header_modes(stored: StoredImages, files: EncodedImages, root: Path, config: DataConfig | None) -> list[str | None]:
    """Pillow's mode of each image, None for a broken one that is skipped. root: the user's path.

    Raises:
        DamagedImageError: a broken image that is not to be skipped.
        OSError: an image that cannot be read for other reasons.
        ValueError: no image is sound.
    """
    if stored.mode is not None:
        return [stored.mode] * len(files)
    modes: list[str | None] = []
    # A bar outside the drivers: this is the one long thing that happens before a driver has anything to report.
    few = len(files) <= _FILES_WORTH_A_BAR
    for index in tqdm(range(len(files)), desc="reading image headers", unit="files", disable=few):
        path = files.path(index)
        try:
            with damage_named(path), files.open(index) as file:
                modes.append(header_mode(file))
        except (DamagedImageError, FileNotFoundError) as error:
            if isinstance(error, FileNotFoundError):
                if not path.is_symlink():
                    raise
                error = DamagedImageError(f"No such file behind the link {path}")
            if config is None:
                raise error from None
            if config.on_error == "stop":
                raise stopped(error) from error
            modes.append(None)
    if not any(modes):
        first = files.path(0).relative_to(root)
        raise ValueError(f"none of the {len(modes)} images in {root} can be read; the first is {first}")
    return modes


def common_mode(modes: Sequence[str | None], files: EncodedImages, root: Path, *, in_training: bool) -> Mode:
    """The mode of all images that have one.

    in_training: which command line the messages name, --data.mode of a training or --channels of an evaluation.

    Raises:
        ValueError: several modes, or one that is neither L nor RGB; the message says how to convert.
    """
    counts = Counter(mode for mode in modes if mode is not None)
    if len(counts) == 1 and counts.keys() <= CHANNELS.keys():
        return "L" if "L" in counts else "RGB"
    grey, colour = ("--data.mode L", "--data.mode RGB") if in_training else ("--channels 1", "--channels 3")
    if len(counts) == 1:
        (mode,) = counts
        raise ValueError(
            f"the images in {root} are of mode {mode}, which is neither grey (L) nor colour (RGB); "
            f"{grey if mode in _GREY_MODES else colour} converts them"
        )
    listed = ", ".join(f"{count} {mode}" for mode, count in counts.most_common())
    examples = " and ".join(
        f"{files.path(modes.index(mode)).relative_to(root)} is {mode}" for mode, _ in counts.most_common(2)
    )
    raise ValueError(
        f"images of several modes in {root}: {listed}; for example {examples}; {colour} converts all to colour"
        f"{f', {grey} all to grey' if in_training else ''}"
    )


def mode_with_channels(modes: Sequence[str | None], files: EncodedImages, channels: int) -> Mode:
    """The mode with so many channels; grey images may become coloured, never the reverse.

    Raises:
        ValueError: neither 1 nor 3 channels, or a colour image where 1 is asked for.
    """
    if channels == 3:
        return "RGB"
    if channels != 1:
        raise ValueError(
            f"pictures have 1 or 3 channels, {channels} were asked for; compare {files.path(0)} with images of 1 or 3"
        )
    for index, mode in enumerate(modes):
        if mode not in (None, *_GREY_MODES):
            raise ValueError(
                f"{files.path(index)} is in colour where grey pictures were expected; convert one of the sets"
            )
    return "L"
