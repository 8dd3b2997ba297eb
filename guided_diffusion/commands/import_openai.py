"""Make a run directory of a published file: python scripts/import_openai.py 64x64_diffusion.pt --out runs/adm64"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ..config import run_command, to_plain


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Make a run directory of a published .pt file."""

    file: Path
    """The published file, or one of the same layout."""
    out: Path
    """Run directory to write; it must not hold a checkpoint yet, but this very import."""
    flags: str | None = None
    """The published command-line flags of the model, "--image_size 64 --num_heads 4 ..". Those left out follow from its
    tensors, or have their published defaults, which the word improved-diffusion in front makes that project's. null:
    it is a released file, recognised by its tensors, or has the architecture of one."""
    entry: str | None = None
    """Network to take from a file that holds several, such as "model" or "ema"; null: the averaged one."""
    kind: Literal["unet", "upsampler", "classifier"] | None = None
    """Kind of network, where its tensors fit two."""
    classes: Path | None = None
    """Class folder, such as ImageNet's train folder, whose directories in sorted order name the model's classes, so
    that classifiers trained on that folder can guide it. null: ImageNet's names for 1,000 classes, else the labels."""


def import_openai(config: ImportConfig) -> Path:
    """Write the published file as a checkpoint, print where and what was assumed, and return its directory.

    The file is memory-mapped and its tensors are written from there, so that they are in memory once. Where this very
    import is there already, whole, nothing is written.

    Raises:
        ValueError: a run directory that holds another checkpoint, or class folders in another number than classes.
    """
    from ..checkpoint import save_checkpoint  # here, with all that needs torch, so that --help is quick
    from ..files import file_sha256, locked
    from ..openai import load_openai
    from ..openai.flags import CHECKPOINT_KIND, parse_command_line

    flags = None if config.flags is None else parse_command_line(config.flags)
    converted = load_openai(config.file, flags, entry=config.entry, kind=config.kind)
    kind, model = CHECKPOINT_KIND[converted.kind], {**converted.config}
    if config.classes is not None:
        model["class_names"] = _class_names(config.classes, model["network"]["num_classes"])
    origin = {"imported": config.file.name, "sha256": file_sha256(config.file), "flags": config.flags}
    origin |= {"entry": config.entry, "published_flags": dict(converted.flags)}
    print(*converted.notes, sep="\n")
    with locked(config.out, work="import"):
        there = finished_import(config.out, kind, model, origin)
        path = there or save_checkpoint(
            config.out, kind=kind, iteration=converted.iteration, model=model, run=origin,
            weights={converted.weights_name: converted.weights},
        )  # fmt: skip
    names = model["class_names"]
    described = f"{kind}, {len(names)} classes named {names[0]} to {names[-1]}" if names else kind
    done = f"{path} is this import, whole already" if there else f"written to {path}"
    print(f"{config.file} is a model of kind {described}; {done}")
    return path


def _class_names(folder: Path, num_classes: int | None) -> list[str]:
    from ..data.formats.tree import class_directories
    from ..data.labels import class_name

    names = sorted(set(map(class_name, class_directories(folder))))
    if num_classes not in (None, len(names)):
        raise ValueError(f"{folder} holds {len(names)} class folders, but the model knows {num_classes} classes")
    return names


def finished_import(out: Path, kind: str, model: Mapping[str, Any], origin: Mapping[str, Any]) -> Path | None:
    """The checkpoint of an equal import, its files verified: it was killed after its last step, or is repeated."""
    from ..checkpoint import open_checkpoint, verify
    from ..openai.flags import CHECKPOINT_KIND
    from ..run_directory import latest

    if latest(out) is None:
        return None
    found = open_checkpoint(out, *CHECKPOINT_KIND.values())
    same_file = all(found.run.get(name) == origin.get(name) for name in ("sha256", "flags", "entry"))
    if not same_file or (found.kind, found.model) != (kind, to_plain(model)):
        raise ValueError(f"{out} holds {found.path} already; give --out a new run directory")
    verify(found)
    return found.path


main = partial(run_command, ImportConfig, import_openai, positional="file")
