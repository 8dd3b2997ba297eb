"""Published .pt files to checkpoint directories of this project, and back: what the import and export scripts run."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from ..checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from ..data.listing import class_directories
from ..files import file_sha256
from ..run_directory import latest
from .conversion import Converted, load_openai, revert
from .description import Kind
from .flags import parse_command_line

_CHECKPOINT_KIND: Mapping[Kind, str] = {"unet": "diffusion", "upsampler": "upsampler", "classifier": "classifier"}
_WEIGHTS: Mapping[Kind, str] = {"unet": "ema_0.9999", "upsampler": "ema_0.9999", "classifier": "network"}
"""What the released weights are: averages over training, but for the classifiers, which were not averaged."""


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Make a run directory of a published .pt file."""

    file: Path
    """The published file, or one of the same layout."""
    out: Path
    """Run directory to write; it must not hold a checkpoint yet."""
    flags: str | None = None
    """Published command-line flags that it goes with, "--image_size 64 --num_channels 192 ..", missing ones at their
    published defaults; null: it is a released file, recognised by its keys and shapes."""
    classes: Path | None = None
    """Class folder whose directories, sorted by name, are the model's classes, such as ImageNet's train folder: then it
    goes with classifiers trained there. null: ImageNet's names in words for 1,000 classes, else the labels."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a checkpoint in the published layout."""

    run: Path
    """Run directory or checkpoint."""
    out: Path
    """The .pt file to write."""
    weights: str | None = None
    """Which weights: "network", "ema_0.9999", ..; null: the slowest average if there is one."""


def with_file_named(option: str, argv: Sequence[str]) -> list[str]:
    """A command line whose first word may be the value of `option`: "X --out Y" stands for "--option X --out Y"."""
    return [f"--{option}", *argv] if argv and not argv[0].startswith("-") else list(argv)


def import_openai(config: ImportConfig) -> Path:
    """Write the checkpoint that the published file is, and print where. Returns its directory.

    The file is memory-mapped and its tensors written from there, so that no second copy of them is in memory.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a run directory that holds a checkpoint already, or what `load_openai` refuses.
    """
    if latest(config.out) is not None:
        raise ValueError(f"{config.out} holds {latest(config.out)} already; give --out a new run directory")
    flags = None if config.flags is None else parse_command_line(config.flags)
    converted = load_openai(config.file, flags)
    model = dict(converted.config)
    if config.classes is not None:
        model["class_names"] = _directories(config.classes, num_classes=model["network"]["num_classes"])
    path = save_checkpoint(
        config.out,
        kind=_CHECKPOINT_KIND[converted.kind],
        iteration=0,
        model=model,
        run={"imported": config.file.name, "sha256": file_sha256(config.file), "flags": config.flags},
        weights={_WEIGHTS[converted.kind]: converted.weights},
    )
    print(f"{config.file} is a {_CHECKPOINT_KIND[converted.kind]} model; written to {path}")
    return path


def _directories(folder: Path, *, num_classes: int | None) -> list[str]:
    names = class_directories(folder)
    if num_classes is not None and len(names) != num_classes:
        raise ValueError(f"{folder} holds {len(names)} class folders, but the model knows {num_classes} classes")
    return names


def export_openai(config: ExportConfig) -> Path:
    """Write the checkpoint's weights in the published layout, and print the flags that go with them.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: a model that the published code cannot build.
    """
    checkpoint = open_checkpoint(config.run, *_CHECKPOINT_KIND.values())
    kind: Kind = next(kind for kind, name in _CHECKPOINT_KIND.items() if name == checkpoint.kind)
    published = revert(Converted(kind, checkpoint.model, _weights(checkpoint, config.weights)))
    _write(dict(published.weights), config.out)
    print(f"wrote {config.out}, which goes with")
    print(" ".join(f"--{name} {value}" for name, value in published.flags.items()))
    return config.out


def _weights(checkpoint: Checkpoint, name: str | None) -> Mapping[str, torch.Tensor]:
    return load_file(checkpoint.weights_file(name))


def _write(weights: dict[str, torch.Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    with partial.open("wb") as file:
        torch.save(weights, file)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
