"""The published .pt files to and from this project's configs and weights: U-Nets, upsamplers and noisy classifiers.

Published names of tensors are in `names`, flags in `flags`, what they mean in `description`, the
released files in `presets`; no other file knows them. The published networks differ from ours in those names,
in the shapes of some 1x1 convolutions, and in the order of the attention's q, k and v rows, which the flag
use_new_attention_order selects: grouped by head ("n three d") or by kind ("three n d"). Ours are always the latter;
the rows are permuted here, so that there is one attention, and outputs agree exactly.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ..config import from_plain
from ..data.imagenet import imagenet_class_names
from ..models.blocks import AttentionPool, Norm
from ..models.unet import EncoderConfig, UNet, UNetConfig, UNetEncoder
from ..models.upsampler import Upsampler, UpsamplerConfig
from .description import Kind, describe, flags_of, refuse_unpublished
from .flags import read_flags
from .names import POSITION, Shape, classes_of, is_grouped, kind_of, published_names, published_shape, with_channel_mult
from .presets import PRESETS, presets_of


@dataclass(frozen=True)
class Converted:
    """A published model as this project has it."""

    kind: Kind
    config: Mapping[str, Any]
    """Plain values: the fields of `DiffusionConfig`; of a classifier "network", "chain" and "class_names"."""
    weights: Mapping[str, Tensor]
    """The state dict of `UNet`, `Upsampler` or `NoisyClassifier`, float32 at least."""


@dataclass(frozen=True)
class Published:
    """A model of ours as the published code has it."""

    flags: Mapping[str, object]
    """The published flags that stand for its config; `convert` needs them with the weights."""
    weights: Mapping[str, Tensor]


def convert(flags: Mapping[str, object], weights: Mapping[str, Tensor]) -> Converted:
    """A published state dict, under the published command-line flags that go with it, as config and weights of ours.

    flags: by name, as `read_flags` takes them; a missing one has its published default. What the flags do not say
    follows from the weights: the kind of network, and the number of classes. The weights share memory with those given
    wherever dtype and order allow it. `class_names` is left empty: neither flags nor weights know them.

    Raises:
        ValueError: unknown flags, what is left out (spatial pooling, another head count in the decoder), or weights
            that do not fit the flags, naming tensors that are missing, unknown or of another shape.
    """
    return _convert(flags, weights, owned=False)


def _convert(flags: Mapping[str, object], weights: Mapping[str, Tensor], *, owned: bool) -> Converted:
    kind = kind_of(weights)
    read = with_channel_mult(read_flags(flags), weights, kind)
    config = describe(read, kind, num_classes=classes_of(weights))
    outline = _outline(kind, config["network"])
    _check(outline.published_shapes(), {key: tuple(tensor.shape) for key, tensor in weights.items()}, kind)
    new_order = read.classifier_use_new_attention_order if kind == "classifier" else read.use_new_attention_order
    ours = {
        key: _to_ours(weights[name], key, outline, new_order=new_order, owned=owned)
        for key, name in outline.names.items()
    }
    return Converted(kind, config, ours)


def revert(converted: Converted) -> Published:
    """The published flags and state dict of a model of ours, float32; `convert` takes them back to the bit.

    The order of q, k and v rows is that of the released file with the same keys and shapes, if there is one, since
    nothing else tells which order a file has.

    Raises:
        ValueError: a config that no published flags describe, or weights that do not fit it.
    """
    refuse_unpublished(converted.kind, converted.config)
    outline = _outline(converted.kind, converted.config["network"])
    expected = {key: tuple(tensor.shape) for key, tensor in outline.network.state_dict().items()}
    _check(expected, {key: tuple(tensor.shape) for key, tensor in converted.weights.items()}, converted.kind)
    shapes = outline.published_shapes()
    released = presets_of(fingerprint(shapes), Path())
    new_order = bool(released) and bool(PRESETS[released[0]].flags.get("use_new_attention_order", False))
    weights = {
        name: _to_published(converted.weights[key], key, outline, shapes[name], new_order=new_order)
        for key, name in outline.names.items()
    }
    return Published(flags_of(converted.kind, converted.config, new_attention_order=new_order), weights)


def load_openai(path: Path, flags: Mapping[str, object] | None = None) -> Converted:
    """The model of a published .pt file, memory-mapped, under the given flags or those of the released file it is.

    Without flags a released file is recognised by its keys and shapes, whatever its name. The unconditional 256-pixel
    networks for ImageNet and LSUN have the same; the file's name tells them apart ("lsun_cat.pt"), and where it does
    not, the ImageNet one is meant. They differ in class names and in the dropout of training alone. Under given flags
    the classes of a network that knows any are ImageNet's if there are 1,000, else named by their labels.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file of tensors by name, or (without flags) not a released one, naming the nearest.
    """
    weights = _read_state_dict(path)
    if flags is not None:
        converted = _convert(flags, weights, owned=True)
        return _with_class_names(converted, _default_class_names(converted.config["network"]["num_classes"]))
    shapes = {key: tuple(tensor.shape) for key, tensor in weights.items()}
    released = presets_of(fingerprint(shapes), path)
    if not released:
        raise ValueError(f"{path} is none of the released files: {_nearest(shapes)}")
    preset = PRESETS[released[0]]
    names = imagenet_class_names() if preset.classes == "imagenet" else ()
    return _with_class_names(_convert(preset.flags, weights, owned=True), names)


def _with_class_names(converted: Converted, names: tuple[str, ...]) -> Converted:
    return replace(converted, config={**converted.config, "class_names": list(names)})


def _default_class_names(num_classes: int | None) -> tuple[str, ...]:
    """ImageNet's for 1,000 classes, which the published code takes for granted; else the labels in digits."""
    if num_classes is None:
        return ()
    return imagenet_class_names() if num_classes == 1000 else tuple(str(label) for label in range(num_classes))


def fingerprint(shapes: Mapping[str, Shape]) -> str:
    """16 hexadecimal digits that stand for the keys and shapes of a state dict, in whatever order."""
    lines = sorted(f"{key} {'x'.join(str(side) for side in shape)}" for key, shape in shapes.items())
    return sha256("\n".join(lines).encode()).hexdigest()[:16]


def _read_state_dict(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; give a published .pt file")
    try:
        state = torch.load(path, map_location="cpu", mmap=_is_zip(path), weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a broken file ends in whatever instruction of the unpickler it trips over
        # torch's message recommends to unpickle without restrictions, which a downloaded file must never get.
        what = type(error).__name__
        raise ValueError(f"{path} cannot be read as tensors by name, and nothing else is unpickled ({what})") from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(
            f"{path} must hold tensors by name (a state dict), and holds a {type(state).__name__} of others"
        )
    return state


def _is_zip(path: Path) -> bool:
    """Whether torch can map the file into memory. Files older than torch 1.6 are read whole."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


@dataclass(frozen=True)
class _Outline:
    """A network of ours without memory for its weights, and the published names of its tensors in published order."""

    config: EncoderConfig
    network: nn.Module
    names: Mapping[str, str]

    def published_shapes(self) -> dict[str, Shape]:
        """Shapes by published name."""
        ours = self.network.state_dict()
        return {name: published_shape(key, name, tuple(ours[key].shape)) for key, name in self.names.items()}


def _outline(kind: Kind, plain: Mapping[str, Any]) -> _Outline:
    source = f"the {kind}'s network"
    with torch.device("meta"):
        if kind == "classifier":
            own = {field.name for field in fields(EncoderConfig)}
            config = from_plain(EncoderConfig, {key: plain[key] for key in plain.keys() & own}, source=source)
            network: nn.Module = _classifier(config, plain)
        elif kind == "upsampler":
            config = from_plain(UpsamplerConfig, plain, source=source)
            network = Upsampler(config)
        else:
            config = from_plain(UNetConfig, plain, source=source)
            network = UNet(config)
    return _Outline(config, network, published_names(network.state_dict(), config, plain.get("pooling")))


def _classifier(config: EncoderConfig, plain: Mapping[str, Any]) -> nn.Module:
    """The tensors of `NoisyClassifier`, which this package may not import; a test holds the two together."""
    encoder = UNetEncoder(config, plain["in_channels"])
    channels = encoder.out_channels
    parts: dict[str, nn.Module] = {"encoder": encoder, "norm_out": Norm(channels)}
    if plain["pooling"] == "attention":
        positions = (config.image_size // config.down_factor) ** 2
        parts["pool"] = AttentionPool(channels, positions=positions, heads=config.heads_of(channels))
    return nn.ModuleDict({**parts, "head": nn.Linear(channels, plain["num_classes"])})


def _to_ours(tensor: Tensor, key: str, outline: _Outline, *, new_order: bool, owned: bool) -> Tensor:
    """owned: nobody else has the tensor, so rows may be permuted where they are; a mapped file is mapped privately."""
    tensor = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    if key == POSITION:
        return tensor.T.contiguous()
    if is_grouped(key) and not new_order:
        heads = outline.config.heads_of(tensor.shape[0] // 3)
        permuted = rearrange(tensor, "(n three d) ... -> (three n d) ...", n=heads, three=3)
        tensor = tensor.copy_(permuted) if owned and tensor.is_contiguous() else permuted
    return tensor.reshape(outline.network.get_parameter(key).shape)


def _to_published(tensor: Tensor, key: str, outline: _Outline, shape: Shape, *, new_order: bool) -> Tensor:
    if key == POSITION:
        return tensor.T.contiguous()
    if is_grouped(key) and not new_order:
        heads = outline.config.heads_of(tensor.shape[0] // 3)
        tensor = rearrange(tensor, "(three n d) ... -> (n three d) ...", n=heads, three=3)
    return tensor.reshape(shape)


def _check(expected: Mapping[str, Shape], found: Mapping[str, Shape], kind: Kind) -> None:
    missing = [key for key in expected if key not in found]
    unknown = [key for key in found if key not in expected]
    reshaped = [key for key in expected if key in found and expected[key] != found[key]]
    if not (missing or unknown or reshaped):
        return
    shapes = [f"{key} {found[key]} instead of {expected[key]}" for key in reshaped]
    parts = (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
    listed = "; ".join(f"{len(keys)} {what}: {_some(keys)}" for what, keys in parts if keys)
    raise ValueError(f"the weights are not those of the {kind} that the flags describe: {listed}")


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", .." if len(keys) > 3 else "")


def _nearest(shapes: Mapping[str, Shape]) -> str:
    """What tells these shapes from the released file that shares the most of them."""
    released: dict[str, dict[str, Shape]] = {}
    for name, preset in PRESETS.items():
        if presets_of(preset.fingerprint, Path())[0] == name:
            config = describe(read_flags(preset.flags), preset.kind, num_classes=1000)
            released[name] = _outline(preset.kind, config["network"]).published_shapes()
    name, nearest = max(released.items(), key=lambda pair: len(shapes.items() & pair[1].items()))
    shared = len(shapes.items() & nearest.items())
    first = next(key for key in [*nearest, *shapes] if shapes.get(key) != nearest.get(key))
    return (
        f"nearest is {name}.pt, with {shared} of its {len(nearest)} tensors among these {len(shapes)}; the first "
        f'difference is "{first}" (here {shapes.get(first)}, there {nearest.get(first)}). Give the '
        f"published flags that it was trained with"
    )
