"""Reading of published .pt files, which may be any of the released ones or others of their layout."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..checkpoint import read_state_dict
from ..data.labels import imagenet_class_names
from .flags import config_of, read_flags
from .layout import Converted, convert, layout_of
from .releases import PRESETS, Shape, presets_of


def load_openai(path: Path, flags: Mapping[str, object] | None = None) -> Converted:
    """The model of a published .pt file, memory-mapped; flags: None for a released file.

    A released file is recognised by its keys and shapes, whatever its name. The unconditional 256-pixel networks of
    ImageNet and LSUN share them and are told apart by the file's name ("lsun_cat.pt"); ImageNet's is the default. They
    differ in class names and in the dropout of training only. Under given flags, 1,000 classes are ImageNet's, and
    others are named by their labels.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file of tensors by name, or (without flags) not a released one, with the nearest.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; give a published .pt file")
    weights = read_state_dict(path)
    if flags is not None:
        converted = convert(flags, weights, in_place=True)
        num_classes = converted.config["network"]["num_classes"] or 0
        names = imagenet_class_names() if num_classes == 1000 else [str(label) for label in range(num_classes)]
    else:
        shapes = {key: tuple(tensor.shape) for key, tensor in weights.items()}
        released = presets_of(shapes, path)
        if not released:
            raise ValueError(f"{path} is none of the released files: {_nearest(shapes)}")
        preset = PRESETS[released[0]]
        converted = convert(preset.flags, weights, in_place=True)
        names = imagenet_class_names() if preset.classes == "imagenet" else ()
    return replace(converted, config={**converted.config, "class_names": list(names)})


def _nearest(shapes: Mapping[str, Shape]) -> str:
    """Description of the released file that shares the most keys and shapes, and of the first difference."""
    layouts = {
        name: layout_of(preset.kind, config_of(read_flags(preset.flags), preset.kind, num_classes=1000)["network"])
        for name, preset in PRESETS.items()
    }
    name = max(layouts, key=lambda name: len(shapes.items() & layouts[name].published.items()))
    nearest = layouts[name].published
    shared = len(shapes.items() & nearest.items())
    first = next(key for key in [*nearest, *shapes] if shapes.get(key) != nearest.get(key))
    return (
        f"nearest is {name}.pt, with {shared} of its {len(nearest)} tensors among these {len(shapes)}; the first "
        f'difference is "{first}" (here {shapes.get(first)}, there {nearest.get(first)}). Give the '
        f"published flags that it was trained with"
    )
