"""Tensors of our networks by diffusers' names, and back."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..models.config import EncoderConfig

TIME_TABLE = "time_proj.weight"
"""Time embeddings of all numbered steps, where a network of diffusers looks them up."""

_RENAMED = (
    (r"^encoder\.time\.mlp\.0", "time_embedding.linear_1"),
    (r"^encoder\.time\.mlp\.2", "time_embedding.linear_2"),
    (r"^label\.", "class_embedding."),
    (r"^encoder\.levels\.", "down_blocks."),
    (r"^levels\.", "up_blocks."),
    (r"^encoder\.middle\.residual_in", "mid_block.resnets.0"),
    (r"^encoder\.middle\.residual_out", "mid_block.resnets.1"),
    (r"^encoder\.middle\.attention", "mid_block.attentions.0"),
    (r"^encoder\.", ""),
    (r"^norm_out", "conv_norm_out"),
    (r"\.blocks\.(\d+)\.residual", r".resnets.\1"),
    (r"\.blocks\.(\d+)\.attention", r".attentions.\1"),
    (r"(down|up)(_blocks\.\d+)\.resample", r"\1\2.\1samplers.0"),
    (r"\.norm_in\.", ".norm1."),
    (r"\.conv_in\.", ".conv1."),
    (r"\.embedding\.", ".time_emb_proj."),
    (r"\.norm_out\.", ".norm2."),
    (r"\.conv_out\.", ".conv2."),
    (r"\.skip\.", ".conv_shortcut."),
    (r"(attentions\.\d+)\.norm", r"\1.group_norm"),
    (r"(attentions\.\d+)\.proj", r"\1.to_out.0"),
)
"""Rewritings of our keys into theirs, in this order."""

_OLD_NAMES = ((".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0."))
"""Names of attention in files that diffusers wrote before version 0.17."""

Shape = tuple[int, ...]


def exported(weights: Mapping[str, Tensor], config: EncoderConfig, table: Tensor | None) -> dict[str, Tensor]:
    """The state dict in diffusers of a network of ours; table: the time embeddings of its numbered steps."""
    theirs: dict[str, Tensor] = {} if table is None else {TIME_TABLE: table}
    for key, tensor in weights.items():
        names = _names(key)
        linear = ".attentions." in names[0] and tensor.ndim == 4  # a 1x1 convolution here
        parts = (tensor[:, :, 0, 0] if linear else tensor).chunk(len(names))
        theirs |= zip(names, parts, strict=True)
    if config.resample == "plain":
        last = len(config.level_channels) - 1
        for level in range(last):
            theirs |= _resampling(f"down_blocks.{level}.downsamplers.0", config.level_channels[level], up=False)
            theirs |= _resampling(f"up_blocks.{level}.upsamplers.0", config.level_channels[last - level], up=True)
    has_decoder = any(name.startswith("up_blocks.0.resnets") for name in theirs)
    return {name: tensor for name, tensor in theirs.items() if has_decoder or not name.startswith("up_blocks")}


def _resampling(module: str, channels: int, *, up: bool) -> dict[str, Tensor]:
    """A change of size without parameters as a convolution: of the pixel itself, or the mean of 2x2 pixels."""
    kernel = torch.zeros(3, 3)
    pixels = slice(1, 2) if up else slice(1, 3)
    kernel[pixels, pixels] = 1.0 if up else 0.25
    return {
        f"{module}.conv.weight": torch.eye(channels)[:, :, None, None] * kernel,
        f"{module}.conv.bias": torch.zeros(channels),
    }


def imported(theirs: Mapping[str, Tensor], shapes: Mapping[str, Shape], *, sine_first: bool) -> dict[str, Tensor]:
    """The state dict of a network of ours, which has these shapes, in float32 at least.

    sine_first: their time embedding begins with the sines, and ours with the cosines.

    Raises:
        ValueError: tensors that are missing, unknown, of another shape, or not finite real numbers.
    """
    found = {
        _present_name(name): tensor.to(torch.promote_types(tensor.dtype, torch.float32))
        for name, tensor in theirs.items()
    }
    found.pop(TIME_TABLE, None)
    wanted = {name: _part_shape(name, shape, len(_names(key))) for key, shape in shapes.items() for name in _names(key)}
    given = {name: tuple(tensor.shape) for name, tensor in found.items()}
    if wrong := sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name)):
        first = f'"{wrong[0]}" (file {given.get(wrong[0])}, network {wanted.get(wrong[0])})'
        raise ValueError(
            f"the weights do not fit the UNet2DModel's config.json: {len(wrong)} differ, the first {first}"
        )
    real = (name for name, tensor in theirs.items() if tensor.is_floating_point() and tensor.isfinite().all())
    if bad := sorted(theirs.keys() - set(real)):
        raise ValueError(f"the weights {bad[0]} are not finite real numbers")
    ours = {key: torch.cat([found[name] for name in _names(key)]).reshape(shape) for key, shape in shapes.items()}
    if sine_first:
        first = "encoder.time.mlp.0.weight"
        ours[first] = ours[first].roll(ours[first].shape[1] // 2, dims=1)
    return ours


def _part_shape(name: str, shape: Shape, parts: int) -> Shape:
    """Shape of one of a tensor's parts, where 1x1 convolutions of attention are linear layers."""
    return (shape[0] // parts, *(shape[1:2] if ".attentions." in name else shape[1:]))


def _names(key: str) -> list[str]:
    """Their names of a tensor of ours, of which q, k and v are one."""
    for ours, name in _RENAMED:
        key = re.sub(ours, name, key)
    return (
        [key.replace("to_qkv", f"to_{part}") for part in "qkv"] if re.search(r"attentions\.\d+\.to_qkv", key) else [key]
    )


def _present_name(name: str) -> str:
    for old, present in _OLD_NAMES if ".attentions." in name else ():
        name = name.replace(old, present)
    return name
