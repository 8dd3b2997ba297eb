"""State dicts within files: the entries of wrappers, prefixes of their keys, and what a file's name says."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from ..checkpoint import read_foreign

_FIRST_KEY = "input_blocks.0.0.weight"
_TRAINED = re.compile(r"(ema_0?\.\d+_|model|opt)(\d+)")
"""Stems of the files that the published trainer writes."""


def read_published(file: Path, entry: str | None) -> tuple[dict[str, Tensor], str | None, tuple[str, ...]]:
    """A network's tensors by published names, the entry they were in (None: the file itself), and notes on the choice.

    A network is where a key ends in that of the first convolution: whatever stands before it, dictionaries of a
    wrapper and prefixes such as "module.", is its entry. Of several, the only one that is named after an average is
    taken, unless `entry` names another.

    Raises:
        ValueError: no network, several to choose from, or an optimiser's state.
    """
    optimiser = f"{file} holds an optimiser's state, no network; give the model*.pt or ema_*.pt beside it"
    if (trained := _TRAINED.fullmatch(file.stem)) and trained[1] == "opt":
        raise ValueError(optimiser)
    content = read_foreign(file)
    tensors = dict(_tensors(content)) if isinstance(content, Mapping) else {}
    entries = {key.removesuffix(_FIRST_KEY) for key in tensors if f".{key}".endswith(f".{_FIRST_KEY}")}
    if not entries and isinstance(content, Mapping) and "param_groups" in content:
        raise ValueError(optimiser)
    if not tensors or (not entries and len(tensors) < len(content)):
        found = type(content).__name__ + (f" with {len(tensors)} tensors" if isinstance(content, Mapping) else "")
        raise ValueError(f"{file} must hold tensors by name (a state dict), and holds a {found}")
    if latents := next((key for key in tensors if "first_stage_model." in key), None):
        raise ValueError(f'{file} is of latents, with an autoencoder ("{latents}"); models here are of pixels')
    chosen, reason = _chosen(sorted(entries), entry, file) if entries - {""} or (entry and entries) else ("", "")
    others = [one for one in entries if one.startswith(chosen) and one != chosen]
    weights = {
        key.removeprefix(chosen): tensor
        for key, tensor in tensors.items()
        if key.startswith(chosen) and not key.startswith(tuple(others))
    }
    if not chosen:
        return weights, None, ()
    left = len(tensors) - len(weights)
    aside = f"; {left} other tensors are left aside" if left else ""
    return weights, chosen[:-1], (f'taken from {file.name}: its entry "{chosen[:-1]}"{reason}{aside}',)


def _tensors(content: Mapping[object, object], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested dictionaries, by keys with dots between them."""
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value.detach()  # of a parameter
        elif isinstance(value, Mapping):
            yield from _tensors(value, f"{prefix}{key}.")


def _chosen(entries: list[str], entry: str | None, file: Path) -> tuple[str, str]:
    """The entry to take, with its dot, and why."""
    listed = ", ".join(f'"{one[:-1]}"' if one else "the file itself" for one in entries)
    averages = [one for one in entries if is_average(one)]
    found = entries if entry is None else [one for one in entries if one.startswith(f"{entry}.")]
    if len(found) == 1:
        return found[0], ""
    if entry is None and len(averages) == 1:
        return averages[0], f", the averaged weights of {listed}; --entry takes another"
    if entry is None:
        raise ValueError(f"{file} holds several networks: {listed}; say by --entry which to take")
    raise ValueError(f"--entry {entry} is {'none' if not found else 'several'} of the networks in {file}: {listed}")


def is_average(entry: str) -> bool:
    """True for the name of an entry that holds averaged weights."""
    return re.search(r"ema|averag|shadow", entry.lower()) is not None


def trained_as(file: Path) -> tuple[str, int] | None:
    """(name of the weights, iteration) of a file named as the published trainer names them, else None."""
    trained = _TRAINED.fullmatch(file.stem)
    return (trained[1][:-1] if trained[1][:3] == "ema" else "network", int(trained[2])) if trained else None
