"""Commands that write files, on tiny data: their options, two settings of each, and the results to compare."""

import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tiny
import torch
from oracles.published import as_command_line, stored_flags_and_weights
from programs import Program

from guided_diffusion.commands.import_openai import ImportConfig, import_openai
from guided_diffusion.commands.train_classifier import train_classifier
from guided_diffusion.commands.train_diffusion import train_diffusion
from guided_diffusion.commands.train_upsampler import train_upsampler
from guided_diffusion.data.pictures import write_png

LEFTOVERS = (".partial-*", ".*.tmp", "*.partial", "preparing.json", ".*.parts", ".lock", ".*.lock")
"""Names of files and directories that a command leaves only if it is interrupted."""

PUBLISHED = "unet_u08_onelevel_dropout"
SETTINGS: Mapping[str, tuple[str, str]] = {
    "prepare_data": ("--size=8", "--size=4"),
    "sample": ("--seed=0", "--seed=1"),
    "upsample": ("--seed=0", "--seed=1"),
    "inpaint": ("--seed=0", "--seed=1"),
    "encode": ("--steps=4", "--steps=5"),
    "likelihood": ("--seed=0", "--seed=1"),
    "sweep": ("--seed=0", "--seed=1"),
    "evaluate": ("", "--generated={samples_2}"),
    "make_reference": ("--manifold_images=20", "--manifold_images=8"),
    "export_samples": ("", "--samples={samples_2}"),
    "export_openai": ("", "--run={imported_2}"),
    "average_weights": ("--widths=[0.07]", "--widths=[0.06]"),
    "import_openai": ("", "--classes={numbered}"),
}
"""The two settings of each command that are told apart."""


def write_material(here: Path) -> None:
    """Pictures, small runs of all kinds, samples, and a published file with its run."""
    pictures = tiny.write_class_folder(here / "pictures")
    tiny.write_class_folder(here / "small", size=4)
    quick: dict[str, Any] = {"iterations": 2, "save_every_iterations": 2}
    kept: dict[str, Any] = {"ema_widths": (0.05, 0.1), "snapshot_every_iterations": 1}
    train_diffusion(tiny.diffusion_config(here / "diffusion", pictures, **quick, **kept))
    train_classifier(tiny.classifier_config(here / "classifier", pictures, diffusion=here / "diffusion", **quick))
    train_classifier(tiny.classifier_config(here / "judge", pictures, **quick))
    train_upsampler(tiny.upsampler_config(here / "upsampler", pictures, **quick))
    mask = torch.zeros(1, 8, 8, dtype=torch.uint8)
    mask[:, 4:] = 255
    write_png(here / "mask.png", mask, enlarge=False)
    flags, weights = stored_flags_and_weights(PUBLISHED)
    torch.save(weights, here / "published.pt")
    for name in ("imported", "imported_2"):
        import_openai(ImportConfig(file=here / "published.pt", out=here / name, flags=as_command_line(flags)))
        torch.save({key: -tensor for key, tensor in weights.items()}, here / "published.pt")
    for label in range(10):
        (here / "numbered" / f"class{label}").mkdir(parents=True)
    for name, seed in (("samples", 0), ("samples_2", 1)):
        status, output = tiny.finish(start("sample", here, here / name, f"--seed={seed}"))
        assert status == 0, output


def start(command: str, material: Path, out: Path, *settings: str, **how: Any) -> Program:
    """Start a command whose result is `out`, a directory; commands that write single files do so in it."""
    places = {path.name: str(path) for path in material.iterdir()}
    given = [setting.format(**places) for setting in settings if setting]
    names = {setting.partition("=")[0] for setting in given}
    usual = [option for option in _usual(command, material, out) if option.partition("=")[0] not in names]
    return tiny.start(f"{command}.py", *usual, *given, threads=1, **how)


def _usual(command: str, material: Path, out: Path) -> list[str]:
    diffusion, data = f"--diffusion={material / 'diffusion'}", f"--data.path={material / 'pictures'}"
    judge = f"--extractor.name=classifier:{material / 'judge'}"
    guided, few = [diffusion, f"--classifier={material / 'classifier'}"], ["--shard_size=2", "--batch_size=2"]
    flags, _ = stored_flags_and_weights(PUBLISHED)
    generated, real = f"--generated={material / 'samples'}", f"--real={material / 'pictures'}"
    options: dict[str, list[str]] = {
        "prepare_data": [data, "--data.num_workers=0"],
        "sample": [*guided, "--num_samples=8", "--sampler.steps=4", *few],
        "upsample": [
            f"--upsampler={material / 'upsampler'}", f"--base={material / 'small'}", "--sampler.steps=3",
            "--shard_size=4", "--batch_size=4",
        ],
        "inpaint": [
            *guided, data, "--data.num_workers=0", f"--mask={material / 'mask.png'}", "--max_images=8",
            "--sampler.steps=4", "--resample_steps=1", *few,
        ],
        "encode": [diffusion, data, "--data.num_workers=0", "--max_images=6", "--interpolations=2", "--frames=3"],
        "likelihood": [diffusion, data, "--data.num_workers=0", "--max_images=4", "--terms=4"],
        "sweep": [*guided, real, judge, "--scales=[0,1]", "--steps=[3]", "--num_samples=4", *few],
        "evaluate": [generated, real, judge],
        "make_reference": [f"--images={material / 'pictures'}", judge],
        "export_samples": [f"--samples={material / 'samples'}"],
        "export_openai": [f"--run={material / 'imported'}"],
        "average_weights": [f"--run={material / 'diffusion'}"],
        "import_openai": [f"--file={material / 'published.pt'}", f"--flags={as_command_line(flags)}"],
    }  # fmt: skip
    files = {
        "likelihood": "likelihood.json",
        "evaluate": "report.json",
        "make_reference": "reference.npz",
        "export_samples": "folder",
        "export_openai": "exported.pt",
    }
    return [*options[command], f"--out={out / files[command] if command in files else out}"]


def result(out: Path) -> dict[str, bytes]:
    """Content of all files below a directory, by name."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def differing(ours: Mapping[str, bytes], theirs: Mapping[str, bytes]) -> list[str]:
    """Names of the files in which two results differ."""
    return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))


def leftovers(out: Path) -> list[str]:
    """Names of what an interrupted command has left below a directory."""
    return [
        str(path.relative_to(out))
        for path in sorted(out.rglob("*"))
        if any(fnmatch.fnmatch(path.name, pattern) for pattern in LEFTOVERS)
    ]
