"""The published names of tensors, and what can be read off them: the kind of network, its classes and levels."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from torch import Tensor

from ..models.unet import EncoderConfig
from .description import CHANNEL_MULT, Kind
from .flags import Flags

Shape = tuple[int, ...]

_RESIDUAL = {
    "norm_in": "in_layers.0",
    "conv_in": "in_layers.2",
    "embedding": "emb_layers.1",
    "norm_out": "out_layers.0",
    "conv_out": "out_layers.3",
    "skip": "skip_connection",
}
_ATTENTION = {"norm": "norm", "to_qkv": "qkv", "proj": "proj_out"}

POSITION = "pool.position"
"""Our key of the learned positions of attention pooling, which the published code keeps transposed."""


def published_names(ours: Iterable[str], config: EncoderConfig, pooling: str | None) -> dict[str, str]:
    """{our key: published key} of a network's tensors, in published order. pooling: of a classifier, else None."""
    return dict(_named(ours, dict(_modules(config, pooling))))


def _named(ours: Iterable[str], modules: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(our key, published key), in the order of `modules`, which is the published one."""
    by_module: dict[str, list[tuple[str, str]]] = {}
    for key in ours:
        module, leaf = key.removeprefix("unet.").rpartition(".")[::2]
        leaf = "positional_embedding" if key == POSITION else leaf
        by_module.setdefault(module, []).append((key, f"{modules[module]}.{leaf}"))
    for module in modules:
        yield from by_module.get(module, [])


def _modules(config: EncoderConfig, pooling: str | None) -> Iterator[tuple[str, str]]:
    """(our module, published module) of everything a network may have, in published order."""
    entries = config.blocks_per_level + 1
    yield from (("encoder.time.mlp.0", "time_embed.0"), ("encoder.time.mlp.2", "time_embed.2"), ("label", "label_emb"))
    yield "encoder.conv_in", "input_blocks.0.0"
    for depth in range(len(config.channel_mult)):
        for i in range(config.blocks_per_level):
            yield from _block(f"encoder.levels.{depth}.blocks.{i}", f"input_blocks.{1 + depth * entries + i}")
        yield from _resample(f"encoder.levels.{depth}.resample", f"input_blocks.{(depth + 1) * entries}.0", conv="op")
    yield from _residual("encoder.middle.residual_in", "middle_block.0")
    yield from _attention("encoder.middle.attention", "middle_block.1")
    yield from _residual("encoder.middle.residual_out", "middle_block.2")
    for level in range(len(config.channel_mult)):
        for i in range(entries):
            yield from _block(f"levels.{level}.blocks.{i}", f"output_blocks.{level * entries + i}")
        size = config.image_size >> len(config.channel_mult) - 1 - level
        position = 2 if size in config.attention_sizes else 1
        last = f"output_blocks.{(level + 1) * entries - 1}.{position}"
        yield from _resample(f"levels.{level}.resample", last, conv="conv")
    head = "out.2.c_proj" if pooling == "attention" else "out.3"
    yield from (("norm_out", "out.0"), ("conv_out", "out.2"), ("pool", "out.2"))
    yield from (("pool.to_qkv", "out.2.qkv_proj"), ("head", head))


def _block(ours: str, published: str) -> Iterator[tuple[str, str]]:
    yield from _residual(f"{ours}.residual", f"{published}.0")
    yield from _attention(f"{ours}.attention", f"{published}.1")


def _residual(ours: str, published: str) -> Iterator[tuple[str, str]]:
    yield from ((f"{ours}.{leaf}", f"{published}.{name}") for leaf, name in _RESIDUAL.items())


def _attention(ours: str, published: str) -> Iterator[tuple[str, str]]:
    yield from ((f"{ours}.{leaf}", f"{published}.{name}") for leaf, name in _ATTENTION.items())


def _resample(ours: str, published: str, *, conv: str) -> Iterator[tuple[str, str]]:
    yield from _residual(ours, published)
    yield f"{ours}.conv", f"{published}.{conv}"


def published_shape(key: str, name: str, shape: Shape) -> Shape:
    """1x1 convolutions of attention run over one axis in the published networks, over two or none in ours."""
    if key == POSITION:
        return shape[::-1]
    if name == "out.3.weight":
        return *shape, 1, 1
    if name.endswith((".qkv.weight", ".proj_out.weight", ".qkv_proj.weight", ".c_proj.weight")):
        return *shape[:2], 1
    return shape


def is_grouped(key: str) -> bool:
    """Whether the flag for the order of q, k and v governs this tensor: attention pooling has but one order."""
    return ".to_qkv." in key and not key.startswith("pool.")


def kind_of(weights: Mapping[str, Tensor]) -> Kind:
    """The kind of network that tensors of these names and shapes belong to."""
    if not any(key.startswith("output_blocks.") for key in weights):
        return "classifier"
    first = weights.get("input_blocks.0.0.weight")
    return "unet" if first is None or first.shape[1] == 3 else "upsampler"


def classes_of(weights: Mapping[str, Tensor]) -> int:
    """Rows of the tensor that has one for each class; 1000, as published, where there is none."""
    names = ("label_emb.weight", "out.2.c_proj.weight", "out.3.weight")
    return next((weights[name].shape[0] for name in names if name in weights), 1000)


def with_channel_mult(flags: Flags, weights: Mapping[str, Tensor], kind: Kind) -> Flags:
    """The flags with the channel multipliers of the weights, where neither flags nor published defaults say them."""
    if kind == "classifier":
        flag, size, width = "classifier_channel_mult", flags.image_size, flags.classifier_width
    else:
        flag, size, width = "channel_mult", flags.image_size if kind == "unet" else flags.large_size, flags.num_channels
    if getattr(flags, flag) or size in CHANNEL_MULT[kind]:
        return flags
    entries = 1 + (flags.classifier_depth if kind == "classifier" else flags.num_res_blocks)
    multipliers: list[str] = []
    while (bias := weights.get(f"input_blocks.{1 + len(multipliers) * entries}.0.out_layers.3.bias")) is not None:
        multipliers.append(f"{bias.shape[0] / width:g}")
    return replace(flags, **{flag: ",".join(multipliers)})
