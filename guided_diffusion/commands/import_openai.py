"""Make a run directory of a published file: python scripts/import_openai.py 64x64_diffusion.pt --out runs/adm64"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..config import run_command


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Make a run directory of a published .pt file."""

    file: Path
    """The published file, or one of the same layout."""
    out: Path
    """Run directory to write; it must not hold a checkpoint yet."""
    flags: str | None = None
    """The published command-line flags of the model, "--image_size 64 --num_channels 192 ..", those left out at their
    published defaults; null: it is a released file, recognised by its keys and shapes."""
    classes: Path | None = None
    """Class folder, such as ImageNet's train folder, whose directories in sorted order name the model's classes, so
    that classifiers trained on that folder can guide it. null: ImageNet's names for 1,000 classes, else the labels."""


def import_openai(config: ImportConfig) -> Path:
    """Write the published file as a checkpoint, print where, and return the checkpoint's directory.

    The file is memory-mapped and its tensors are written from there, so that they are in memory once.

    Raises:
        ValueError: a run directory that holds a checkpoint already, or class folders in another number than classes.
    """
    from ..checkpoint import save_checkpoint  # here, with all that needs torch, so that --help is quick
    from ..data.formats.tree import class_directories
    from ..files import file_sha256
    from ..openai import load_openai
    from ..openai.flags import CHECKPOINT_KIND, parse_command_line
    from ..run_directory import latest

    if latest(config.out) is not None:
        raise ValueError(f"{config.out} holds {latest(config.out)} already; give --out a new run directory")
    flags = None if config.flags is None else parse_command_line(config.flags)
    converted = load_openai(config.file, flags)
    model = dict(converted.config)
    if config.classes is not None:
        names, num_classes = class_directories(config.classes), model["network"]["num_classes"]
        if num_classes not in (None, len(names)):
            raise ValueError(
                f"{config.classes} holds {len(names)} class folders, but the model knows {num_classes} classes"
            )
        model["class_names"] = names
    kind = CHECKPOINT_KIND[converted.kind]
    released = "network" if kind == "classifier" else "ema_0.9999"  # the released classifiers are not averaged
    path = save_checkpoint(
        config.out,
        kind=kind,
        iteration=0,
        model=model,
        run={"imported": config.file.name, "sha256": file_sha256(config.file), "flags": config.flags},
        weights={released: converted.weights},
    )
    print(f"{config.file} is a {kind} model; written to {path}")
    return path


main = partial(run_command, ImportConfig, import_openai, positional="file")
