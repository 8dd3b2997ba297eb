"""Make a run directory of a pipeline of diffusers: python scripts/import_diffusers.py ddpm-butterflies --out runs/b"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..config import run_command


@dataclass(frozen=True, kw_only=True)
class ImportDiffusersConfig:
    """Make a run directory of a folder that Hugging Face diffusers wrote: a UNet2DModel with its scheduler."""

    folder: Path
    """Folder of the pipeline, with model_index.json."""
    out: Path
    """Run directory to write; it must not hold a checkpoint yet, but this very import."""


def import_diffusers(config: ImportDiffusersConfig) -> Path:
    """Write the pipeline's model as a checkpoint, print what was taken from where, and return its directory.

    Where this very import is there already, whole, nothing is written.

    Raises:
        ValueError: a pipeline that no model of this project can say, or a run directory that holds another checkpoint.
    """
    from ..checkpoint import save_checkpoint  # here, with all that needs torch, so that --help is quick
    from ..diffusers import load_diffusers, unet_weights
    from ..files import file_sha256, locked
    from .import_openai import finished_import

    model, file = load_diffusers(config.folder), unet_weights(config.folder)
    origin = {"imported": str(file.relative_to(config.folder.parent)), "sha256": file_sha256(file)}
    with locked(config.out, work="import"):
        there = finished_import(config.out, "diffusion", model.config, origin)
        path = there or save_checkpoint(
            config.out, kind="diffusion", iteration=0, model=model.config, run=origin,
            weights={"network": model.weights},
        )  # fmt: skip
    print(*model.notes, sep="\n")
    classifier = "the classifier, " if (config.folder / "classifier").is_dir() else ""
    print(f"not taken: {classifier}settings of sampling such as clip_sample and timestep_spacing; give them to sample")
    print(f"{path} is this import, whole already" if there else f"written to {path}")
    return path


main = partial(run_command, ImportDiffusersConfig, import_diffusers, positional="folder")
