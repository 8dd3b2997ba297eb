"""Frozen parts of a network: parameters without gradients and moments, whose averages are their values."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn


def freeze_others(network: nn.Module, parts: Sequence[str]) -> None:
    """Freeze all parameters but those of the parts; no parts: none.

    A part is the beginning of parameters' names up to a dot, or a pattern of one, as in *.attention. An upsampler's
    names are those of its U-Net.

    Raises:
        ValueError: a part that no parameter belongs to, naming those there are.
    """
    if not parts:
        return
    parameters = {name.removeprefix("unet."): parameter for name, parameter in network.named_parameters()}
    trained: set[str] = set()
    for part in parts:
        found = {name for name in parameters if any(fnmatchcase(name, end) for end in (part, f"{part}.*"))}
        if not found:
            raise ValueError(f"training.train_only {part} is no part of this network; {_known(list(parameters))}")
        trained |= found
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in trained)


def trained_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not frozen."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def _known(names: Sequence[str]) -> str:
    """The parts that names of parameters begin with, and those within them, in words."""
    first = dict.fromkeys(name.split(".")[0] for name in names)
    inner = sorted({part for name in names for part in name.split(".")[1:-1] if not part.isdigit()} - first.keys())
    return f"it begins with {', '.join(first)}, and within these has {', '.join(f'*.{part}' for part in inner)}"
