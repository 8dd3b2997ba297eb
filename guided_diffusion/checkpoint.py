"""Checkpoint directories: a model's description (config.json) and weights (safetensors), complete or absent.

    runs/adm64/checkpoint-0300000/
      config.json          kind, format, model, full run config, iteration, library versions, SHA-256 of the files
      network.safetensors  ema_0.9999.safetensors  ema_power_0.1.safetensors
      resume/              what only training needs; safe to delete

Wherever a checkpoint is expected, a run directory stands for its best checkpoint if training marked one (best.json),
else for its newest. Reading never unpickles.
"""

import json
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .files import atomic_directory, file_sha256, remove_leftovers
from .records import DamagedRecordError, Fields, check_record, read_record
from .run_directory import best, checkpoint_name, checkpoints, latest, number
from .weight_averages import slowest_average

FORMAT = 1
"""Version of the layout; raised when a reader of the old one would misread the new."""

_FIELDS: Fields = {
    "kind": str,
    "iteration": int,
    "model": dict[str, Any],
    "run": dict[str, Any],
    "sha256": dict[str, str] | None,
    "lineage": list[dict[str, Any]] | None,
}


class DamagedCheckpointError(ValueError):
    """A checkpoint whose files have changed since they were written."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk, its config.json read and its kind checked."""

    path: Path
    kind: str
    iteration: int
    model: Mapping[str, Any]
    """Plain values that the kind needs to build its network and use it."""
    run: Mapping[str, Any]
    """The run's whole resolved config."""
    sha256: Mapping[str, str]
    """Of each of its other files, by path in it; empty where none was recorded."""
    lineage: Sequence[Mapping[str, Any]] = ()
    """The checkpoints that its training began from, oldest first: name, kind, weights, sha256, iteration, and changes,
    sentences about what was adapted; empty for a training from random weights."""

    @property
    def name(self) -> str:
        """Its run and its own directory, for messages and records: "diffusion/checkpoint-0300000"."""
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def origin(self) -> dict[str, Any]:
        """The lineage as manifests record it beside the weights; empty where there is none."""
        return {"lineage": [*self.lineage]} if self.lineage else {}

    @property
    def weight_names(self) -> tuple[str, ...]:
        """Names of the weights it holds: "network", and averages such as "ema_0.9999" and "ema_power_0.1"."""
        return tuple(sorted(file.stem for file in self.path.glob("*.safetensors")))

    def was_trained_on(self, path: Path) -> bool:
        """True for the path of the run's training images, as far as its config tells; an imported run's names none."""
        trained_on = self.run.get("data", {}).get("path")
        return trained_on is not None and Path(trained_on).resolve() == path.resolve()

    def weights_file(self, name: str | None = None) -> Path:
        """The safetensors file of the named weights; None: of the slowest average, else of the network as trained.

        Raises:
            ValueError: no such weights, naming those there are.
        """
        chosen = name or slowest_average(self.weight_names) or "network"
        if chosen not in self.weight_names:
            raise ValueError(f'{self.path} has no weights "{chosen}"; it has {", ".join(self.weight_names) or "none"}')
        return self.path / f"{chosen}.safetensors"


def save_checkpoint(
    run_dir: Path,
    *,
    kind: str,
    iteration: int,
    model: Mapping[str, Any],
    run: Mapping[str, Any],
    weights: Mapping[str, Mapping[str, Tensor]],
    write_resume: Callable[[Path], None] | None = None,
    lineage: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write run_dir/checkpoint-<iteration>, whole or not at all; an equal name is replaced.

    weights: name -> state dict. write_resume: fills the directory resume/, which only training needs. lineage: as in
        `Checkpoint`.
    """
    target = run_dir / checkpoint_name(iteration)
    versions = {name: version(name) for name in ("torch", "safetensors", "accelerate")}
    remove_leftovers(run_dir)
    with atomic_directory(target, replace=True) as partial:
        for name, state in weights.items():
            write_tensors(state, partial / f"{name}.safetensors")
        if write_resume is not None:
            (partial / "resume").mkdir()
            write_resume(partial / "resume")
        files = sorted(file for file in partial.rglob("*") if file.is_file())
        sha256 = {str(file.relative_to(partial)): file_sha256(file) for file in files}
        record: dict[str, Any] = {"format": FORMAT, "kind": kind, "iteration": iteration, "model": model, "run": run}
        record |= {"versions": versions, "sha256": sha256} | ({"lineage": [*lineage]} if lineage else {})
        (partial / "config.json").write_text(json.dumps(record, indent=2) + "\n")
    return target


def open_checkpoint(path: Path, kind: str, *others: str) -> Checkpoint:
    """The checkpoint at `path`, or the best or else newest of the run directory `path`, of one of the kinds given.

    Raises:
        FileNotFoundError: nothing there.
        DamagedCheckpointError: its description cannot be read.
        ValueError: a checkpoint of another kind, of a later format, or under the name of another iteration.
    """
    is_checkpoint = (path / "config.json").is_file() or path in checkpoints(path.parent)
    directory = path if is_checkpoint else best(path) or latest(path)
    if directory is None:
        found = "it holds no checkpoint-*" if path.is_dir() else "no such directory"
        raise FileNotFoundError(f"no checkpoint at {path} ({found}); give a run directory or a checkpoint in one")
    try:
        record = read_record(directory / "config.json", {"format": int})
        if record["format"] > FORMAT:  # which may lack the fields that are read next
            raise ValueError(f"{directory} has format {record['format']}; this version reads up to {FORMAT}: update it")
        record = check_record(record, _FIELDS, source=directory / "config.json")
    except (DamagedRecordError, FileNotFoundError) as error:
        is_missing = isinstance(error, FileNotFoundError)
        raise DamagedCheckpointError(f"{directory}/config.json is missing" if is_missing else str(error)) from None
    checkpoint = Checkpoint(
        path=directory, kind=record["kind"], iteration=record["iteration"], model=record["model"], run=record["run"],
        sha256=record["sha256"] or {}, lineage=tuple(record["lineage"] or ()),
    )  # fmt: skip
    named = number(directory)
    if named not in (None, checkpoint.iteration):  # a renamed or copied one would hide those that follow it
        raise ValueError(
            f"{directory} holds iteration {checkpoint.iteration}, not {named} as its name says; remove it, or rename "
            f"it to {checkpoint_name(checkpoint.iteration)}"
        )
    if checkpoint.kind not in (kind, *others):
        needed = " or ".join(f'"{one}"' for one in (kind, *others))
        raise ValueError(f'{directory} holds a model of kind "{checkpoint.kind}", but kind {needed} is needed here')
    return checkpoint


def verify(checkpoint: Checkpoint) -> None:
    """Compare all of a checkpoint's files with their recorded hashes; resume/ may have been deleted whole.

    Raises:
        DamagedCheckpointError: a file that is missing or has another content.
    """
    for name in checkpoint.sha256:
        if not name.startswith("resume/") or (checkpoint.path / "resume").exists():
            _verify_file(checkpoint, name)


def _verify_file(checkpoint: Checkpoint, name: str) -> None:
    file = checkpoint.path / name
    if not file.is_file():
        raise DamagedCheckpointError(f"{file} is missing")
    if name in checkpoint.sha256 and file_sha256(file) != checkpoint.sha256[name]:
        reason = "its SHA-256 is not the one that was recorded"
        raise DamagedCheckpointError(f"{file} is damaged: {reason}; fetch it again, or take another checkpoint")


def read_weights(checkpoint: Checkpoint, name: str | None = None) -> dict[str, Tensor]:
    """The tensors of the file that `weights_file` takes, after its content is compared with the recorded hash.

    The comparison reads the file once in a process, at 1.3 GB/s; the tensors then come from the system's cache.

    Raises:
        DamagedCheckpointError: another content than was written.
        ValueError: as `weights_file`.
    """
    file = checkpoint.weights_file(name)
    _verify_file(checkpoint, file.name)
    return read_tensors(file)


def load_weights(network: nn.Module, checkpoint: Checkpoint, name: str | None = None) -> None:
    """Fill `network`, which may be on the meta device, with the weights that `read_weights` reads, in its own dtype.

    Raises:
        ValueError: weights that do not fit, naming the first that is missing, unknown or of another shape.
    """
    file, state, own = checkpoint.weights_file(name), read_weights(checkpoint, name), network.state_dict()
    expected = {key: tuple(tensor.shape) for key, tensor in own.items()}
    found = {key: tuple(tensor.shape) for key, tensor in state.items()}
    wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    if wrong:
        first = f'"{wrong[0]}" (file {found.get(wrong[0])}, network {expected.get(wrong[0])})'
        raise ValueError(
            f"{file} does not fit the network of its config.json: {len(wrong)} tensors differ, the first {first}"
        )
    network.load_state_dict({key: tensor.to(own[key].dtype) for key, tensor in state.items()}, assign=True)


def write_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write a safetensors file of tensors, by name."""
    try:
        file.touch()
        mode = file.stat().st_mode
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, file)
        file.chmod(mode)  # as the umask says; safetensors lets nobody but the owner read
    except SafetensorError as error:  # which hides the operating system's error
        raise OSError(f"{file} could not be written: {error}") from None


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        ValueError: a damaged file.
    """
    try:
        return load_file(file)
    except (SafetensorError, FileNotFoundError) as error:
        fault = "missing" if isinstance(error, FileNotFoundError) else f"damaged ({error})"
        raise DamagedCheckpointError(f"{file} is {fault}; take another checkpoint") from None


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """The tensors by name in a file that `read_foreign` reads.

    Raises:
        ValueError: a damaged file, or one of something else.
    """
    state = read_foreign(file)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{file} must hold tensors by name (a state dict), and holds a {type(state).__name__}")
    return dict(state)


def read_foreign(file: Path) -> Any:  # of other software: of any type
    """The content of a file that other software wrote, by torch.save (then memory-mapped) or as safetensors.

    Options of a command line (argparse.Namespace) may lie beside the tensors.

    Raises:
        ValueError: a damaged file, or one that needs code to be read.
    """
    with file.open("rb") as opened:
        head = opened.read(9)
    is_zip = head[:2] == b"PK"  # torch cannot map files older than torch 1.6, which are no zip archives
    if head[8:] == b"{" or (file.suffix == ".safetensors" and not is_zip):
        return read_tensors(file)
    try:
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(file, map_location="cpu", mmap=is_zip, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a broken file fails in any instruction of the unpickler
        raise ValueError(f"{file} {_fault(file, type(error).__name__)}") from None


def _fault(file: Path, error: str) -> str:
    """The reason why torch cannot read a file; torch's own recommends to run the file's code."""
    with suppress(Exception):  # of a damaged file
        if code := sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file)):
            return (
                f"holds no state dict that can be read without running its code ({', '.join(code[:3])}); where you "
                f"trust it, load it by torch and save its weights alone"
            )
    return f"is damaged, or was written neither by torch.save nor as safetensors ({error}); fetch it again"
