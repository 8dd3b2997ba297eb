"""Reading of published .pt files, which may be any of the released ones or others of their layout."""

from collections.abc import Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.labels import imagenet_class_names
from .flags import Flags, Kind, config_of, flag_of, flags_of, read_flags
from .layout import SIZES, Converted, convert, kind_of, layout_of, shapes_of, shown_flags
from .releases import PRESETS, Shape, presets_of
from .tensor_shapes import kinds_of, visible_flags
from .wrappers import is_average, read_published, trained_as

_FIRST = "time_embed.0.weight"
"""The first tensor of every published network."""


def load_openai(
    path: Path, flags: Mapping[str, object] | None = None, *, entry: str | None = None, kind: Kind | None = None
) -> Converted:
    """The model of a published .pt file, memory-mapped, with notes on all that was chosen or assumed.

    flags: a missing one follows from the tensors, or has its published default where no tensor shows it. None: those of
    the released file with the same tensors, whatever its name, else of the one with the same architecture. Released
    files that share all tensors differ in class names and training only, and are told apart by name ("lsun_cat.pt");
    the first in `PRESETS` is the default. Elsewhere 1,000 classes are ImageNet's, and others are named by their labels.

    entry: the network to take where the file holds several. kind: of the network, where its tensors fit two.

    Raises:
        FileNotFoundError: no such file.
        ValueError: what `read_published` and `convert` refuse, numbers that are not finite, an image size that nothing
            shows, or (without flags) another layout, with the nearest released file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; give a published .pt file")
    weights, found, notes = read_published(path, entry)
    _refuse_broken_numbers(weights, path)
    trained = trained_as(path)
    released = presets_of(shapes_of(weights), path) if flags is None and trained is None else []
    released = [name for name in released if kind in (None, PRESETS[name].kind)]
    converted = _released(released[0], weights) if released else _described(path, weights, flags, kind)
    is_raw = converted.kind == "classifier" or (found is not None and not is_average(found))
    name, iteration = trained or ("network" if is_raw else "ema_0.9999", 0)
    return replace(converted, notes=(*notes, *converted.notes), weights_name=name, iteration=iteration)


def _refuse_broken_numbers(weights: Mapping[str, Tensor], path: Path) -> None:
    for key, tensor in weights.items():
        distinct = tensor[tuple(slice(None if stride else 1) for stride in tensor.stride())]  # of an expanded tensor
        if not tensor.is_floating_point():
            raise ValueError(f'"{key}" in {path} is of type {tensor.dtype}; give a file of the weights as real numbers')
        total = distinct.sum(dtype=torch.promote_types(tensor.dtype, torch.float32))  # 0.1 s a GiB, not 1.5 s
        if not total.isfinite() and not distinct.isfinite().all():
            raise ValueError(f'"{key}" in {path} has numbers that are not finite; give an earlier or undamaged file')


def _released(name: str, weights: Mapping[str, Tensor]) -> Converted:
    preset = PRESETS[name]
    converted = convert(preset.flags, weights, kind=preset.kind, in_place=True)
    note = f"recognised by its tensors as {name}.pt, whose flags it gets; one trained otherwise needs --flags"
    return _with(converted, note, is_imagenet=preset.classes == "imagenet")


def _with(converted: Converted, note: str, *, is_imagenet: bool) -> Converted:
    """The model with a note, and with ImageNet's class names or its labels."""
    labels = [str(label) for label in range(converted.config["network"]["num_classes"] or 0)]
    names = list(imagenet_class_names()) if is_imagenet else labels
    return replace(converted, config={**converted.config, "class_names": names}, notes=(note,))


def _described(
    path: Path, weights: Mapping[str, Tensor], flags: Mapping[str, object] | None, kind: Kind | None
) -> Converted:
    """A model that is no released file, by its flags, its tensors, and what is assumed of the rest."""
    shapes = shapes_of(weights)
    kinds = kinds_of(shapes)
    if kind and kind not in kinds:
        raise ValueError(f"{path} holds no {kind}; its tensors fit {' or '.join(kinds) or 'neither kind'}")
    if _FIRST not in shapes or (flags is None and not (kinds and visible_flags(kinds[0], shapes, image_size=1))):
        raise ValueError(f"{path} is none of the released files: {_nearest(shapes)}")
    likely: list[Kind] = [one for one in kinds if flags is None and _alike(shapes, one)]
    kind = kind or (likely[0] if len(likely) == 1 else kind_of(shapes, flags or {}))
    alike = _alike(shapes, kind) if flags is None else None
    known = PRESETS[alike].flags if alike else flags or {}
    shown = shown_flags(kind, shapes, known)
    given = {**known, **shown} if alike else known
    if missing := [size for size in SIZES[kind] if size not in {*given, *shown}]:
        wanted = " ".join(f"--{size} {getattr(Flags, size)}" for size in missing)
        raise ValueError(f'no tensor of {path} shows the size of its images: give it by --flags, as "{wanted}"')
    converted = convert(given, weights, kind=kind, in_place=True)
    family = given.get("family", "guided-diffusion")
    source = f"as of {alike}.pt, whose architecture it has" if alike else f"at the defaults of {family}"
    assumed = _assumed(read_flags(converted.flags), kind, {*(flags or {}), *shown})
    note = f"no tensor shows these flags, assumed {source}: {assumed}; where one differs, import it with all --flags"
    return _with(converted, note, is_imagenet=converted.config["network"]["num_classes"] == 1000)


def _alike(shapes: Mapping[str, Shape], kind: Kind) -> str | None:
    """The first released file of the same architecture, of whatever classes, channels and variance."""
    ends = {"class_cond": False, "learn_sigma": False}
    for name, preset in PRESETS.items():
        if preset.kind == kind and (shown := shown_flags(kind, shapes, preset.flags)):
            config = config_of(read_flags(preset.flags), kind, num_classes=1)
            flags, network = flags_of(kind, config, new_attention_order=False), config["network"]
            width, levels = (flag_of(name, kind) for name in ("num_channels", "channel_mult"))
            released = {**flags, width: network["base_channels"], levels: network["channel_mult"], **ends}
            if read_flags(released) == read_flags({**released, **shown, **ends}):
                return name
    return None


def _assumed(read: Flags, kind: Kind, known: Set[str]) -> str:
    """The flags that are neither given nor shown by any tensor, as on a command line; known: those that are."""
    heads = "num_heads" if getattr(read, flag_of("num_head_channels", kind)) == -1 else "num_head_channels"
    names = [flag_of(name, kind) for name in ("image_size", heads, "use_new_attention_order", "dropout")]
    names += ["small_size"] if kind == "upsampler" else []
    names += ["noise_schedule", "diffusion_steps", "rescale_timesteps"]
    if kind != "classifier":
        names += ["predict_xstart"] if read.learn_sigma else ["predict_xstart", "sigma_small"]
    unseen = [name for name in names if not {name, name.removeprefix("classifier_")} & known]
    return " ".join(f"--{name} {getattr(read, name)}" for name in unseen)


def _nearest(shapes: Mapping[str, Shape]) -> str:
    """Description of the released file that shares the most keys and shapes, and of the first difference."""
    if _FIRST not in shapes:
        return f'its tensors, the first of them "{next(iter(shapes))}", are of another layout; export them to this one'
    configs: dict[str, tuple[Kind, dict[str, Any]]] = {
        name: (preset.kind, config_of(read_flags(preset.flags), preset.kind, num_classes=1000)["network"])
        for name, preset in PRESETS.items()
    }
    width = shapes[_FIRST][-1:]
    as_wide = {name: config for name, config in configs.items() if (config[1]["base_channels"],) == width}
    layouts = {name: layout_of(*config) for name, config in (as_wide or configs).items()}
    name = max(layouts, key=lambda name: len(shapes.items() & layouts[name].published.items()))
    nearest = layouts[name].published
    shared = len(shapes.items() & nearest.items())
    first = next(key for key in [*nearest, *shapes] if shapes.get(key) != nearest.get(key))
    return (
        f"nearest is {name}.pt, with {shared} of its {len(nearest)} tensors among these {len(shapes)}; the first "
        f'difference is "{first}" (here {shapes.get(first)}, there {nearest.get(first)}). Give the '
        f"published flags that it was trained with"
    )
