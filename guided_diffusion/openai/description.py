"""What published flags say in this project's configs, and which flags say what a config does.

Meanings are those of the published code (github.com/openai/guided-diffusion). Which tensors go with a config is the
business of `openai`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from ..config import to_plain
from ..diffusion.schedules import ChainConfig
from ..models.unet import EncoderConfig, UNetConfig
from ..models.upsampler import UpsamplerConfig
from .flags import Flags

Kind = Literal["unet", "upsampler", "classifier"]

_BY_SIZE = {512: "0.5,1,1,2,2,4,4", 256: "1,1,2,2,4,4", 128: "1,1,2,3,4", 64: "1,2,3,4"}
CHANNEL_MULT: Mapping[Kind, Mapping[int, str]] = {
    "unet": _BY_SIZE,
    "classifier": _BY_SIZE,
    "upsampler": {512: "1,1,2,2,4,4", 256: "1,1,2,2,4,4", 64: "1,2,3,4"},
}
"""The published default of the channel multipliers by kind of network and by the side of its images."""


def describe(flags: Flags, kind: Kind, *, num_classes: int) -> dict[str, Any]:  # plain values, as JSON holds them
    """The config that flags stand for, plain: "network", "chain", "class_names" (none), and of diffusion models
    "prediction" and "variance".

    num_classes: of a classifier, or of a network told the class; the published flags do not say it.

    Raises:
        ValueError: what no released model uses and this project leaves out, or a network that cannot be built.
    """
    if kind == "classifier":
        own = {"num_classes": num_classes, "in_channels": 3, "pooling": flags.classifier_pool}
        return {"network": to_plain({**_classifier_network(flags), **own}), "chain": _chain(flags), "class_names": []}
    classes = num_classes if flags.class_cond else None
    shared = {**_unet_network(flags, kind), "num_classes": classes, "out_channels": 6 if flags.learn_sigma else 3}
    network = UNetConfig(**shared) if kind == "unet" else UpsamplerConfig(**shared, low_res_size=flags.small_size)
    fixed = "small" if flags.sigma_small else "large"
    return {
        "network": to_plain(network),
        "chain": _chain(flags),
        "prediction": "x0" if flags.predict_xstart else "eps",
        "variance": "learned_range" if flags.learn_sigma else fixed,
        "class_names": [],
    }


def _chain(flags: Flags) -> dict[str, Any]:
    if flags.noise_schedule not in ("linear", "cosine"):
        raise ValueError(f'noise_schedule "{flags.noise_schedule}" is unknown; published are "linear" and "cosine"')
    chain = ChainConfig(
        schedule=flags.noise_schedule, num_steps=flags.diffusion_steps, rescale_t=flags.rescale_timesteps
    )
    return to_plain(chain)


def _unet_network(flags: Flags, kind: Kind) -> dict[str, Any]:
    by_channels = flags.num_head_channels != -1
    if not by_channels and flags.num_heads_upsample not in (-1, flags.num_heads):
        raise ValueError(
            f"num_heads_upsample {flags.num_heads_upsample} is left out: a decoder has as many heads as its encoder "
            f"(num_heads {flags.num_heads}), as in every released model"
        )
    size = flags.image_size if kind == "unet" else flags.large_size
    channel_mult = _channel_mult(flags.channel_mult, size, kind)
    return {
        "image_size": size,
        "base_channels": flags.num_channels,
        "channel_mult": channel_mult,
        "attention_sizes": _attention_sizes(flags.attention_resolutions, size, len(channel_mult)),
        "blocks_per_level": flags.num_res_blocks,
        "head_channels": flags.num_head_channels if by_channels else None,
        "heads": None if by_channels else flags.num_heads,
        "dropout": flags.dropout,
        "resample": _resample(flags.resblock_updown, flags.conv_resample),
        "modulation": "scale_shift" if flags.use_scale_shift_norm else "add",
    }


def _classifier_network(flags: Flags) -> dict[str, Any]:
    if flags.classifier_pool not in ("attention", "adaptive"):
        raise ValueError(
            f'classifier_pool "{flags.classifier_pool}" is left out: no released classifier uses it; this project has '
            f'"attention" and "adaptive"'
        )
    size = flags.image_size
    channel_mult = _channel_mult(flags.classifier_channel_mult, size, "classifier")
    by_channels = flags.classifier_num_head_channels != -1
    encoder = EncoderConfig(
        image_size=size,
        base_channels=flags.classifier_width,
        channel_mult=channel_mult,
        attention_sizes=_attention_sizes(flags.classifier_attention_resolutions, size, len(channel_mult)),
        blocks_per_level=flags.classifier_depth,
        head_channels=flags.classifier_num_head_channels if by_channels else None,
        heads=None if by_channels else flags.classifier_num_heads,
        dropout=flags.classifier_dropout,
        resample=_resample(flags.classifier_resblock_updown, flags.classifier_conv_resample),
        modulation="scale_shift" if flags.classifier_use_scale_shift_norm else "add",
    )
    return asdict(encoder)


def _resample(resblock_updown: bool, conv_resample: bool) -> Literal["block", "conv", "plain"]:
    if resblock_updown:
        return "block"
    return "conv" if conv_resample else "plain"


def _channel_mult(text: str, size: int, kind: Kind) -> tuple[float, ...]:
    chosen = text or CHANNEL_MULT[kind].get(size)
    if chosen is None:
        known = sorted(CHANNEL_MULT[kind])
        raise ValueError(f"channel_mult of a {kind} has a published default for {known} pixels, not {size}: give it")
    return tuple(_numbers(chosen, "channel_mult"))


def _attention_sizes(text: str, image_size: int, levels: int) -> tuple[int, ...]:
    """Sides at which attention acts. Sides that the network never has are dropped, as the published code does: it
    looks for the factor image_size // side among its own."""
    factors = {int(image_size // side) for side in _numbers(text, "attention_resolutions") if side > 0}
    return tuple(image_size >> level for level in range(levels) if 1 << level in factors)


def _numbers(text: str, flag: str) -> list[float]:
    try:
        return [float(item) for item in text.split(",") if item.strip()]
    except ValueError:
        raise ValueError(f'{flag} must be numbers with commas between them, got "{text}"') from None


def flags_of(kind: Kind, config: Mapping[str, Any], *, new_attention_order: bool) -> dict[str, object]:
    """The flags that stand for a config, but for those at their published defaults.

    `describe` reads them back as the same config, class names apart. config: one that `refuse_unpublished` lets pass.
    """
    network, chain = config["network"], config["chain"]
    flags: dict[str, object] = {
        "noise_schedule": chain["schedule"],
        "diffusion_steps": chain["num_steps"],
        "rescale_timesteps": chain["rescale_t"],
    }
    if kind == "classifier":
        flags |= _classifier_flags(network, new_attention_order)
    else:
        flags |= _unet_flags(network, kind, new_attention_order) | {
            "class_cond": network["num_classes"] is not None,
            "learn_sigma": config["variance"] == "learned_range",
            "sigma_small": config["variance"] == "small",
            "predict_xstart": config["prediction"] == "x0",
        }
    return {name: value for name, value in flags.items() if value != getattr(Flags, name)}


def refuse_unpublished(kind: Kind, config: Mapping[str, Any]) -> None:
    """Refuse what the published code has not.

    Raises:
        ValueError: a config that no published flags describe, naming what they do not.
    """
    if config["network"]["in_channels"] != 3:
        raise ValueError(f"the published layout is for 3 image channels, not {config['network']['in_channels']}")
    if config["chain"] is None:
        raise ValueError(
            "the published layout is for noise-aware classifiers; this one was trained on clean images alone"
        )
    if config["chain"]["schedule"] not in ("linear", "cosine"):
        raise ValueError(f'no published flag stands for chain.schedule "{config["chain"]["schedule"]}"')
    if kind == "classifier":
        return
    for key in ("null_class", "conditioning_noise"):
        if config["network"].get(key):
            raise ValueError(f"no published flag stands for network.{key}, which this model was trained with")
    for key, published in (("prediction", ("eps", "x0")), ("variance", ("learned_range", "large", "small"))):
        if config[key] not in published:
            raise ValueError(f'no published flag stands for {key} "{config[key]}", only for {published}')


def _unet_flags(network: Mapping[str, Any], kind: Kind, new_attention_order: bool) -> dict[str, object]:
    size = network["image_size"]
    sizes = {"image_size": size} if kind == "unet" else {"large_size": size, "small_size": network["low_res_size"]}
    return {
        **sizes,
        "num_channels": network["base_channels"],
        "num_res_blocks": network["blocks_per_level"],
        "num_heads": network["heads"] or Flags.num_heads,
        "num_head_channels": network["head_channels"] or -1,
        "attention_resolutions": _text(network["attention_sizes"]),
        "channel_mult": _channel_mult_flag(network, kind),
        "dropout": network["dropout"],
        "use_scale_shift_norm": network["modulation"] == "scale_shift",
        "resblock_updown": network["resample"] == "block",
        "use_new_attention_order": new_attention_order,
        "conv_resample": network["resample"] != "plain",
    }


def _classifier_flags(network: Mapping[str, Any], new_attention_order: bool) -> dict[str, object]:
    return {
        "image_size": network["image_size"],
        "classifier_width": network["base_channels"],
        "classifier_depth": network["blocks_per_level"],
        "classifier_attention_resolutions": _text(network["attention_sizes"]),
        "classifier_pool": network["pooling"],
        "classifier_use_scale_shift_norm": network["modulation"] == "scale_shift",
        "classifier_resblock_updown": network["resample"] == "block",
        "classifier_channel_mult": _channel_mult_flag(network, "classifier"),
        "classifier_num_heads": network["heads"] or -1,
        "classifier_num_head_channels": network["head_channels"] or -1,
        "classifier_use_new_attention_order": new_attention_order,
        "classifier_conv_resample": network["resample"] != "plain",
        "classifier_dropout": network["dropout"],
    }


def _channel_mult_flag(network: Mapping[str, Any], kind: Kind) -> str:
    """Nothing where the published default says it, which the published code needs for fractions."""
    text = _text(network["channel_mult"])
    return "" if text == CHANNEL_MULT[kind].get(network["image_size"]) else text


def _text(numbers: Sequence[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers)
