"""Look through a data set: python scripts/inspect_data.py --data.path DIR --size 64 --out page.png"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..config import check_at_least, run_command
from ..data.config import Labels, Window, check_num_workers, check_window, refuse_among


@dataclass(frozen=True, kw_only=True)
class InspectedConfig:
    """The images to look at."""

    path: Path
    """As of a training: a folder with one directory per class, a zip, WebDataset shards, .."""
    labels: Labels = "folders"
    """As of a training."""
    window: Window | None = None
    """As of a training."""
    num_workers: int = 2
    """Processes that decode; 0 decodes in this one."""

    def __post_init__(self) -> None:
        check_num_workers(self.num_workers)
        check_window(self.window, option="data.window")


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Look through all images: classes, sizes, broken and duplicate files, and a page of thumbnails."""

    data: InspectedConfig
    """The images."""
    size: int | None = None
    """Side of the images to be trained on, pixels; counts the smaller files. null: not asked."""
    out: Path | None = None
    """PNG to write with a row of thumbnails for each class; null: none."""

    def __post_init__(self) -> None:
        check_at_least(self, size=1)
        if self.out is not None and self.out.suffix.lower() != ".png":
            raise ValueError(f"the page of thumbnails is a PNG; give --out a name that ends in .png, not {self.out}")


def inspect_data(config: InspectConfig) -> None:
    """Look through the data, print a report, and write the page if one was asked for."""
    # Imports Pillow, which --help has no use for.
    from ..data.inspection import inspected, report_lines, write_thumbnails

    data = config.data
    refuse_among(data.path, config.out)
    found = inspected(data.path, labels=data.labels, num_workers=data.num_workers, window=data.window)
    print("\n".join(report_lines(found, size=config.size)))
    if config.out is not None:
        write_thumbnails(config.out, found)
        print(f"thumbnails  {config.out}")


main = partial(run_command, InspectConfig, inspect_data)
