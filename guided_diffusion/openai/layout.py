"""Published tensors to ours and back: their names, shapes and order of rows.

The published networks differ from ours in these names, in the shapes of some 1x1 convolutions, and in the order of the
attention's q, k and v rows, which the flag use_new_attention_order selects: grouped by head ("n three d") or by kind
("three n d"). Ours are always grouped by kind; the rows are permuted here, so that the models need one attention only,
and outputs agree exactly.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from classifiers.model import ClassifierConfig, NoisyClassifier

from ..config import from_plain
from ..models.unet import EncoderConfig, UNet, UNetConfig
from ..models.upsampler import Upsampler, UpsamplerConfig
from .flags import Kind, config_of, flag_of, flags_of, read_flags, refuse_unpublished
from .releases import PRESETS, Shape, presets_of
from .tensor_shapes import image_channels, kinds_of, visible_flags

SIZES: Mapping[Kind, tuple[str, ...]] = {
    "unet": ("image_size",), "upsampler": ("large_size", "small_size"), "classifier": ("image_size",)
}  # fmt: skip
"""Flags of the sizes of images, by the kind of network that has them."""
_NETWORKS: Mapping[Kind, tuple[Any, Any]] = {
    "unet": (UNetConfig, UNet),
    "upsampler": (UpsamplerConfig, Upsampler),
    "classifier": (ClassifierConfig, NoisyClassifier),
}


@dataclass(frozen=True)
class Converted:
    """A published model in this project's form."""

    kind: Kind
    config: Mapping[str, Any]
    """Plain values: the fields of `DiffusionConfig`; of a classifier "network", "chain" and "class_names"."""
    weights: Mapping[str, Tensor]
    """State dict of `UNet`, `Upsampler` or `NoisyClassifier`, at least float32."""
    flags: Mapping[str, object] = field(default_factory=dict[str, object])
    """Published flags of the file that it was converted from, those of its image size and all but the defaults."""
    notes: tuple[str, ...] = ()
    """Sentences for the user on what was chosen, recognised or assumed in reading a file."""
    weights_name: str = "network"
    """Name of the weights in a checkpoint."""
    iteration: int = 0
    """Iteration of training that the file's name tells."""


@dataclass(frozen=True)
class Published:
    """A model of ours in the published form."""

    flags: Mapping[str, object]
    """Published flags that describe its config; `convert` needs them with the weights."""
    weights: Mapping[str, Tensor]


def convert(
    flags: Mapping[str, object], weights: Mapping[str, Tensor], *, kind: Kind | None = None, in_place: bool = False
) -> Converted:
    """Config and weights of ours from a published state dict and the published command-line flags that go with it.

    flags: by name, as `read_flags` takes them; a missing one follows from the weights or has its published default.
    The numbers of classes and of image channels follow from the weights, and so does the kind of network, unless it is
    given. Converted weights share memory with the given ones wherever dtype and order allow; in_place: rows of
    `weights` are permuted in their own memory. "class_names" is left empty.

    Raises:
        ValueError: unknown flags, an option that is left out (spatial pooling, another head count in the decoder), or
            weights that do not fit the flags, with the tensors that are missing, unknown or of another shape.
    """
    shapes = shapes_of(weights)
    kind = kind or kind_of(shapes, flags)
    read = read_flags(flags, visible=shown_flags(kind, shapes, flags))
    one_row_a_class = [weights[name] for name in _ONE_ROW_A_CLASS if name in weights]
    num_classes = len(one_row_a_class[0]) if one_row_a_class else 1000
    config = config_of(read, kind, num_classes=num_classes, in_channels=image_channels(kind, shapes))
    layout = layout_of(kind, config["network"], parameters=sum(tensor.numel() for tensor in weights.values()))
    _check(layout.published, shapes, kind)
    grouped_by_kind = getattr(read, flag_of("use_new_attention_order", kind))

    def ours(key: str, tensor: Tensor) -> Tensor:
        tensor = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
        if key == _POSITION:
            return tensor.T.contiguous()
        if _has_two_orders(key) and not grouped_by_kind:
            heads = layout.config.heads_of(tensor.shape[0] // 3)
            permuted = rearrange(tensor, "(n three d) ... -> (three n d) ...", n=heads, three=3)
            tensor = tensor.copy_(permuted) if in_place and tensor.is_contiguous() else permuted
        return tensor.reshape(layout.ours[key])

    effective = flags_of(kind, config, new_attention_order=grouped_by_kind)
    return Converted(kind, config, {key: ours(key, weights[name]) for key, name in layout.names.items()}, effective)


def revert(converted: Converted, *, origin: Mapping[str, object] | None = None) -> Published:
    """The published flags and float32 state dict of a model of ours; `convert` takes them back to the bit.

    origin: published flags of the file that the model was converted from, if it was. The order of q, k and v rows is
    theirs; without them, that of the released file with the same keys and shapes, if there is one.

    Raises:
        ValueError: a config that no published flags describe, or weights that do not fit it.
    """
    kind, config = converted.kind, converted.config
    refuse_unpublished(kind, config)
    layout = layout_of(kind, config["network"])
    _check(layout.ours, shapes_of(converted.weights), kind)
    if origin is None:
        released = presets_of(layout.published)
        origin = PRESETS[released[0]].flags if released else {}
    grouped_by_kind = bool(getattr(read_flags(origin), flag_of("use_new_attention_order", kind)))

    def published(key: str, name: str) -> Tensor:
        tensor = converted.weights[key]
        if key == _POSITION:
            return tensor.T.contiguous()
        if _has_two_orders(key) and not grouped_by_kind:
            heads = layout.config.heads_of(tensor.shape[0] // 3)
            tensor = rearrange(tensor, "(three n d) ... -> (n three d) ...", n=heads, three=3)
        return tensor.reshape(layout.published[name])

    weights = {name: published(key, name) for key, name in layout.names.items()}
    return Published(flags_of(kind, config, new_attention_order=grouped_by_kind), weights)


def shown_flags(kind: Kind, shapes: Mapping[str, Shape], flags: Mapping[str, object]) -> dict[str, object]:
    """Flags that the tensors show, where images are of the size and levels of the depth among `flags`."""
    read, depth = read_flags(flags), flag_of("num_res_blocks", kind)
    size, blocks = getattr(read, flag_of("image_size", kind)), getattr(read, depth) if flags.get(depth) else None
    return visible_flags(kind, shapes, image_size=size, blocks_per_level=blocks)


@dataclass(frozen=True)
class Layout:
    """Tensors of a network, without their values, by our names and by the published ones."""

    config: EncoderConfig
    names: Mapping[str, str]
    """{our key: published key}, in published order."""
    ours: Mapping[str, Shape]
    published: Mapping[str, Shape]


def layout_of(kind: Kind, network: Mapping[str, Any], *, parameters: int | None = None) -> Layout:
    """Layout of the network with this plain config.

    Raises:
        ValueError: a network that cannot be built, or that has more than so many `parameters`.
    """
    config_class, network_class = _NETWORKS[kind]
    config = from_plain(config_class, network, source=f"the {kind}'s network")
    if parameters is not None and config.least_parameters > parameters:  # before building, which may take for ever
        described = f"a {kind} of {config.least_parameters:.3g} parameters or more"
        raise ValueError(f"the flags describe {described}, but the weights have {parameters:.3g}")
    return _layout(config, network_class)


@cache  # a network of hundreds of layers takes a quarter of a second, also on the meta device
def _layout(config: Any, network_class: Any) -> Layout:  # a config of the class's own
    with torch.device("meta"):
        state = network_class(config).state_dict()
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    modules = dict(_modules(config, getattr(config, "pooling", None) == "attention"))
    named: dict[str, dict[str, str]] = {module: {} for module in modules}
    for key in shapes:
        module, leaf = key.removeprefix("unet.").rpartition(".")[::2]
        named[module][key] = f"{modules[module]}.{'positional_embedding' if key == _POSITION else leaf}"
    names = {key: name for of_module in named.values() for key, name in of_module.items()}
    published = {name: _published_shape(key, name, shapes[key]) for key, name in names.items()}
    return Layout(config, names, shapes, published)


_ONE_ROW_A_CLASS = ("label_emb.weight", "out.2.c_proj.weight", "out.3.weight")
"""Published tensors that tell the number of classes; without any of them it is 1000, as published."""
_POSITION = "pool.position"
"""Our key of the learned positions of attention pooling, which the published code keeps transposed."""
_RESIDUAL = {
    "norm_in": "in_layers.0",
    "conv_in": "in_layers.2",
    "embedding": "emb_layers.1",
    "norm_out": "out_layers.0",
    "conv_out": "out_layers.3",
    "skip": "skip_connection",
}
_ATTENTION = {"norm": "norm", "to_qkv": "qkv", "proj": "proj_out"}


def _modules(config: EncoderConfig, attention_pooling: bool) -> Iterator[tuple[str, str]]:
    """(our module, published module) of all modules that a network may have, in published order."""
    levels, entries = len(config.channel_mult), config.blocks_per_level + 1
    yield from (("encoder.time.mlp.0", "time_embed.0"), ("encoder.time.mlp.2", "time_embed.2"), ("label", "label_emb"))
    yield "encoder.conv_in", "input_blocks.0.0"
    for depth in range(levels):
        for i in range(config.blocks_per_level):
            yield from _block(f"encoder.levels.{depth}.blocks.{i}", f"input_blocks.{1 + depth * entries + i}")
        yield from _resample(f"encoder.levels.{depth}.resample", f"input_blocks.{(depth + 1) * entries}.0", conv="op")
    yield from _leaves("encoder.middle.residual_in", "middle_block.0", _RESIDUAL)
    yield from _leaves("encoder.middle.attention", "middle_block.1", _ATTENTION)
    yield from _leaves("encoder.middle.residual_out", "middle_block.2", _RESIDUAL)
    for level in range(levels):
        for i in range(entries):
            yield from _block(f"levels.{level}.blocks.{i}", f"output_blocks.{level * entries + i}")
        size = config.image_size >> levels - 1 - level
        position = 2 if size in config.attention_sizes else 1
        last = f"output_blocks.{(level + 1) * entries - 1}.{position}"
        yield from _resample(f"levels.{level}.resample", last, conv="conv")
    yield from (("norm_out", "out.0"), ("conv_out", "out.2"), ("pool", "out.2"))
    yield from (("pool.to_qkv", "out.2.qkv_proj"), ("head", "out.2.c_proj" if attention_pooling else "out.3"))


def _block(ours: str, published: str) -> Iterator[tuple[str, str]]:
    yield from _leaves(f"{ours}.residual", f"{published}.0", _RESIDUAL)
    yield from _leaves(f"{ours}.attention", f"{published}.1", _ATTENTION)


def _resample(ours: str, published: str, *, conv: str) -> Iterator[tuple[str, str]]:
    yield from _leaves(ours, published, _RESIDUAL)
    yield f"{ours}.conv", f"{published}.{conv}"


def _leaves(ours: str, published: str, leaves: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    return ((f"{ours}.{leaf}", f"{published}.{name}") for leaf, name in leaves.items())


def _published_shape(key: str, name: str, shape: Shape) -> Shape:
    """1x1 convolutions of attention have one spatial axis in the published networks, and two or none in ours."""
    if key == _POSITION:
        return shape[::-1]
    if name == "out.3.weight":
        return *shape, 1, 1
    if name.endswith((".qkv.weight", ".proj_out.weight", ".qkv_proj.weight", ".c_proj.weight")):
        return *shape[:2], 1
    return shape


def _has_two_orders(key: str) -> bool:
    """True if use_new_attention_order governs this tensor; attention pooling has one order only."""
    return ".to_qkv." in key and not key.startswith("pool.")


def kind_of(shapes: Mapping[str, Shape], flags: Mapping[str, object]) -> Kind:
    """The kind of network that the tensors are of; where they fit two, the one whose image size is among the flags.

    Raises:
        ValueError: two kinds fit, and the flags name neither's image size.
    """
    kinds = kinds_of(shapes)
    named: list[Kind] = [kind for kind in kinds if flags.keys() & SIZES[kind]]
    if len(kinds) <= 1:
        return kinds[0] if kinds else "unet"
    if len(named) == 1:
        return named[0]
    seen = image_channels("unet", shapes)
    raise ValueError(
        f"the tensors are those of a U-Net of {seen}-channel images whose variance is not learned, or of an upsampler "
        f"of {seen // 2}-channel images whose variance is: say by --kind unet or --kind upsampler which it is"
    )


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    """Shapes of tensors by name."""
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def _check(expected: Mapping[str, Shape], found: Mapping[str, Shape], kind: Kind) -> None:
    reshaped = [key for key, shape in expected.items() if found.get(key, shape) != shape]
    differing = {
        "missing": [key for key in expected if key not in found],
        "unknown": [key for key in found if key not in expected],
        "of another shape": [f"{key} {found[key]} instead of {expected[key]}" for key in reshaped],
    }
    listed = "; ".join(
        f"{len(keys)} {fault}: {', '.join(keys[:3])}{', ..' if len(keys) > 3 else ''}"
        for fault, keys in differing.items()
        if keys
    )
    if listed:
        raise ValueError(f"the weights are not those of the {kind} that the flags describe: {listed}")
