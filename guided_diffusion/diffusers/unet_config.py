"""Configs of our U-Nets as configs of diffusers' UNet2DModel, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..models.config import GROUPS, EncoderConfig

_ONLY_VALUE: Mapping[str, object] = {
    "center_input_sample": False, "freq_shift": 0, "mid_block_type": "UNetMidBlock2D", "mid_block_scale_factor": 1,
    "downsample_padding": 1, "act_fn": "silu", "norm_num_groups": GROUPS, "norm_eps": 1e-5, "add_attention": True,
    "class_embed_type": None,
}  # fmt: skip
"""Fields of UNet2DModel of which our networks have one value, the default of diffusers."""

_BLOCKS = {"AttnXBlock2D": "attention", "ResnetXsampleBlock2D": "resnet", "XBlock2D": "conv"}
"""Types of blocks, with X for Down or Up: with attention, or without it and with a change of size of this kind."""

_MODULATIONS = {"scale_shift": "scale_shift", "default": "add"}


def unet2d_config(config: EncoderConfig, own: Mapping[str, object], *, table: int | None) -> dict[str, Any]:
    """The config of a UNet2DModel that computes what our network does.

    own: its channels and classes, by the names of diffusers. table: rows of its table of time embeddings, one a step;
    None where the network computes them from the step's number.

    Raises:
        ValueError: layers that UNet2DModel cannot have, naming the option.
    """
    first, channels = config.level_channels[0], config.level_channels
    if first != config.base_channels:
        raise ValueError(
            f"network.channel_mult begins with {config.channel_mult[0]:g}: a UNet2DModel embeds timesteps in as many "
            f"channels as its first level has, here {first}, and this network in {config.base_channels}"
        )
    attends = [config.image_size >> depth in config.attention_sizes for depth in range(len(channels))]
    kind = "resnet" if config.resample == "block" else "conv"
    plain = next(block for block, name in _BLOCKS.items() if name == kind)
    types = ["AttnXBlock2D" if attention else plain for attention in attends]
    return {**_ONLY_VALUE, **own} | {
        "_class_name": "UNet2DModel",
        "sample_size": config.image_size,
        "time_embedding_type": "positional" if table is None else "learned",
        "num_train_timesteps": table,
        "flip_sin_to_cos": True,
        "down_block_types": [name.replace("X", "Down") for name in types],
        "up_block_types": [name.replace("X", "Up") for name in reversed(types)],
        "block_out_channels": list(channels),
        "layers_per_block": config.blocks_per_level,
        "downsample_type": kind,
        "upsample_type": kind,
        "dropout": config.dropout,
        "attention_head_dim": _head_channels(config, attends),
        "attn_norm_num_groups": GROUPS,
        "resnet_time_scale_shift": next(t for t, ours in _MODULATIONS.items() if ours == config.modulation),
    }


def _head_channels(config: EncoderConfig, attends: Sequence[bool]) -> int | None:
    """Channels of an attention head, which UNet2DModel has alike at all sizes; None: one head, of all channels."""
    channels = config.level_channels
    attended = {c for c, attention in zip(channels, attends, strict=True) if attention} | {channels[-1]}
    heads = sorted({c // config.heads_of(c) for c in attended})
    if len(heads) > 1 and config.heads != 1:
        raise ValueError(
            f"network.heads {config.heads} makes heads of {heads} channels, and all heads of a UNet2DModel are of one "
            f"size, as with network.head_channels"
        )
    return heads[0] if len(heads) == 1 else None


def network_config(unet: Mapping[str, Any]) -> dict[str, Any]:
    """Plain `UNetConfig` of a UNet2DModel's config.

    Raises:
        ValueError: naming all that our networks cannot compute, with what they have instead.
    """
    if min(unet["block_out_channels"], default=0) < 1:
        raise ValueError(f"block_out_channels is {unet['block_out_channels']}; a UNet2DModel has one or more levels")
    (down, down_kinds), (up, up_kinds) = _levels(unet, "Down"), _levels(unet, "Up")
    kinds = down_kinds | up_kinds
    wrong = _differences(unet, kinds)
    if up[::-1] != down:
        wrong.append(f"attention of up_block_types is {up[::-1]}, here {down}")
    if wrong:
        raise ValueError(f"this project's U-Net cannot compute what this UNet2DModel does: {'; '.join(wrong)}")
    channels, size, head = unet["block_out_channels"], unet["sample_size"], unet.get("attention_head_dim", 8)
    return {
        "image_size": size,
        "base_channels": channels[0],
        "channel_mult": [level / channels[0] for level in channels],
        "attention_sizes": [size >> depth for depth, attention in enumerate(down) if attention],
        "blocks_per_level": unet.get("layers_per_block") or 2,
        "head_channels": head,
        "heads": 1 if head is None else None,
        "dropout": unet.get("dropout") or 0.0,
        "resample": "block" if "resnet" in kinds else "conv",
        "modulation": _MODULATIONS[unet.get("resnet_time_scale_shift", "default")],
        "in_channels": unet.get("in_channels") or 3,
        "out_channels": unet.get("out_channels") or 3,
        "num_classes": unet.get("num_class_embeds"),
    }


def _differences(unet: Mapping[str, Any], kinds: set[str]) -> list[str]:
    """The settings that our networks do not have, in words; kinds: of the changes of size."""
    width, shift = 4 * unet["block_out_channels"][0], unet.get("resnet_time_scale_shift", "default")
    middle = unet.get("attn_norm_num_groups") or (GROUPS if shift == "default" else None)
    only = {name: (unet.get(name, value), value) for name, value in _ONLY_VALUE.items()}
    only["time_embedding_dim"] = (unet.get("time_embedding_dim") or width, width)
    only["attn_norm_num_groups"] = (middle, GROUPS)
    if kinds == {"resnet"}:
        del only["downsample_padding"]  # of convolutions
    wrong = [f"{name} is {value}, here {ours}" for name, (value, ours) in only.items() if value != ours]
    embedded, size = unet.get("time_embedding_type", "positional"), unet["sample_size"]
    for name, value, known in (
        ("time_embedding_type", embedded, ("positional", "learned")),
        ("resnet_time_scale_shift", shift, tuple(_MODULATIONS)),
        ("sample_size", size, (size,) if isinstance(size, int) else ("one number",)),
        ("the kind of changes of size", " and ".join(sorted(kinds)), ("", "conv", "resnet")),
    ):
        if value not in known:
            wrong.append(f"{name} is {value}, here {' or '.join(str(one) for one in known if one)}")
    return wrong


def _levels(unet: Mapping[str, Any], direction: str) -> tuple[list[bool], set[str]]:
    """Attention of each level in the config's order, and the kinds of the changes of size."""
    kinds: list[str] = []
    for name in unet[f"{direction.lower()}_block_types"]:
        if (general := name.replace(direction, "X")) not in _BLOCKS:
            known = ", ".join(block.replace("X", direction) for block in _BLOCKS)
            raise ValueError(f"{name} is no block of this project's U-Net, which can compute {known}")
        kinds.append(_BLOCKS[general])
    resampled = unet.get(f"{direction.lower()}sample_type", "conv")
    return [kind == "attention" for kind in kinds], {str(resampled) if k == "attention" else k for k in kinds[:-1]}
