"""The published command-line flags (github.com/openai/guided-diffusion): values, defaults, and their config here."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Literal

from classifiers.model import ClassifierConfig

from ..config import to_plain
from ..diffusion.schedules import ChainConfig
from ..models.unet import UNetConfig
from ..models.upsampler import UpsamplerConfig

Kind = Literal["unet", "upsampler", "classifier"]
CHECKPOINT_KIND: Mapping[Kind, str] = {"unet": "diffusion", "upsampler": "upsampler", "classifier": "classifier"}

# fmt: off
WITHOUT_EFFECT = frozenset((
    "use_fp16", "use_checkpoint", "classifier_use_fp16", "timestep_respacing", "use_kl",
    "rescale_learned_sigmas", "clip_denoised", "num_samples", "batch_size", "use_ddim", "model_path",
    "classifier_path", "classifier_scale", "base_samples", "data_dir", "val_data_dir", "noised", "iterations",
    "lr", "weight_decay", "anneal_lr", "microbatch", "schedule_sampler", "resume_checkpoint", "log_interval",
    "eval_interval", "save_interval", "lr_anneal_steps", "ema_rate", "fp16_scale_growth", "save_dir",
))
# fmt: on
"""Published flags of training and sampling, which do not describe a network: accepted and ignored."""

FAMILIES: Mapping[str, Mapping[str, object]] = {
    "guided-diffusion": {},
    "improved-diffusion": {"rescale_timesteps": True},
}
"""Published code bases (github.com/openai), and their defaults besides those of `Flags` that no tensor shows."""

_BY_SIZE = {512: "0.5,1,1,2,2,4,4", 256: "1,1,2,2,4,4", 128: "1,1,2,3,4", 64: "1,2,3,4"}
CHANNEL_MULT: Mapping[Kind, Mapping[int, str]] = {
    "unet": _BY_SIZE,
    "classifier": _BY_SIZE,
    "upsampler": {512: "1,1,2,2,4,4", 256: "1,1,2,2,4,4", 64: "1,2,3,4"},
}
"""Published default of the channel multipliers, by kind of network and image size."""


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Published flags with their defaults; the last seven are arguments of the networks that no published flag sets."""

    image_size: int = 64
    large_size: int = 256
    small_size: int = 64
    num_channels: int = 128
    num_res_blocks: int = 2
    num_heads: int = 4
    num_heads_upsample: int = -1
    num_head_channels: int = -1
    attention_resolutions: str = "16,8"
    channel_mult: str = ""
    dropout: float = 0.0
    class_cond: bool = False
    use_scale_shift_norm: bool = True
    resblock_updown: bool = False
    use_new_attention_order: bool = False
    learn_sigma: bool = False
    sigma_small: bool = False
    diffusion_steps: int = 1000
    noise_schedule: str = "linear"
    predict_xstart: bool = False
    rescale_timesteps: bool = False
    classifier_width: int = 128
    classifier_depth: int = 2
    classifier_attention_resolutions: str = "32,16,8"
    classifier_use_scale_shift_norm: bool = True
    classifier_resblock_updown: bool = True
    classifier_pool: str = "attention"
    conv_resample: bool = True
    classifier_channel_mult: str = ""
    classifier_num_heads: int = -1
    classifier_num_head_channels: int = 64
    classifier_use_new_attention_order: bool = False
    classifier_conv_resample: bool = True
    classifier_dropout: float = 0.0


def flag_of(name: str, kind: Kind) -> str:
    """Name of the flag that sets `name`, as the U-Net's flags call it, for a kind of network."""
    if kind != "classifier":
        return "large_size" if (kind, name) == ("upsampler", "image_size") else name
    if name == "image_size":
        return name
    return "classifier_" + {"num_channels": "width", "num_res_blocks": "depth"}.get(name, name)


_SHARED_NAMES = ("channel_mult", "num_heads", "num_head_channels", "use_new_attention_order", "conv_resample")
_TRUE, _FALSE = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")


def read_flags(given: Mapping[str, object], *, visible: Mapping[str, object] = MappingProxyType({})) -> Flags:
    """Flags by name, as values of their type or as text ("True", "32,16,8"); None or "" means that of `visible`.

    A flag that is in neither has its published default, in the code base that the name "family" stands for.

    The published classifier has arguments for heads, attention order and channel multipliers, but no flags. Where
    num_channels is absent, the flags are taken for a classifier's alone, and the U-Net's names for these set the
    classifier's. Beside num_channels they are the U-Net's, as on a published sampling command line.

    Raises:
        ValueError: an unknown flag or an unreadable value, by name.
    """
    types = {field.name: field.type for field in fields(Flags)}
    unknown = sorted(given.keys() - types.keys() - WITHOUT_EFFECT - {"family"})
    if unknown:
        raise ValueError(f"unknown published flags {unknown}; known are {sorted(types)}")
    family = FAMILIES.get(str(given.get("family", "guided-diffusion")))
    if family is None:
        raise ValueError(f'the flags are of no known family "{given["family"]}"; known are {", ".join(FAMILIES)}')
    values = {name: value for name, value in given.items() if name in types and value not in (None, "")}
    if "num_channels" not in values:
        shared = {flag_of(name, "classifier"): values[name] for name in _SHARED_NAMES if name in values}
        values = {**shared, **values}
    values = {**family, **visible, **values}
    read = {name: _read(name, value, types[name]) for name, value in values.items()}
    if "classifier_num_heads" in read and "classifier_num_head_channels" not in read:
        read["classifier_num_head_channels"] = -1
    return Flags(**read)


def _read(name: str, value: object, wanted: Any) -> Any:  # a dataclass field's type is untyped
    try:
        if wanted is bool:
            if str(value).lower() not in _TRUE + _FALSE:
                raise ValueError
            return str(value).lower() in _TRUE
        if wanted is str and isinstance(value, Sequence) and not isinstance(value, str):
            return _text(value)
        return wanted(value)
    except (TypeError, ValueError):
        raise ValueError(f"published flag {name} must be of type {wanted.__name__}, got {value!r}") from None


def parse_command_line(text: str) -> dict[str, str]:
    """{"image_size": "64", ..} from "--image_size 64 ..", the form of the published commands.

    A first word without dashes is the code base whose defaults hold, such as improved-diffusion, as {"family": ..}.

    Raises:
        ValueError: text that is not pairs of --name and value.
    """
    try:
        words = shlex.split(text.replace("=", " "))
    except ValueError as error:
        raise ValueError(f"flags cannot be read ({error}), got {text}") from None
    if words and not words[0].startswith("--") and len(words) % 2:
        words.insert(0, "--family")
    names, values = words[::2], words[1::2]
    if len(names) != len(values) or not all(name.startswith("--") for name in names):
        raise ValueError(f'flags must be pairs "--name value", got "{text}"')
    return {name.removeprefix("--"): value for name, value in zip(names, values, strict=True)}


def config_of(
    flags: Flags, kind: Kind, *, num_classes: int, in_channels: int = 3
) -> dict[str, Any]:  # plain values, as JSON holds them
    """Plain config of a model: "network", "chain", empty "class_names", and "prediction", "variance" of diffusion.

    num_classes: of a classifier or a class-conditional network. in_channels: of the images. No published flag gives
    these two.

    Raises:
        ValueError: an option that no released model uses and this project leaves out, or an impossible network.
    """
    encoder: dict[str, Any] = {**_encoder(flags, kind), "in_channels": in_channels}
    model: dict[str, object] = {}
    if flags.noise_schedule not in ("linear", "cosine"):
        raise ValueError(f'noise_schedule "{flags.noise_schedule}" is unknown; published are "linear" and "cosine"')
    chain = ChainConfig(
        schedule=flags.noise_schedule, num_steps=flags.diffusion_steps, rescale_t=flags.rescale_timesteps
    )
    if kind == "classifier":
        if flags.classifier_pool not in ("attention", "adaptive"):
            raise ValueError(
                f'classifier_pool "{flags.classifier_pool}" is left out: no released classifier uses it; this project '
                f'has "attention" and "adaptive"'
            )
        network = ClassifierConfig(**encoder, num_classes=num_classes, pooling=flags.classifier_pool)
    else:
        encoder["num_classes"] = num_classes if flags.class_cond else None
        encoder["out_channels"] = in_channels * (2 if flags.learn_sigma else 1)
        network = UNetConfig(**encoder) if kind == "unet" else UpsamplerConfig(**encoder, low_res_size=flags.small_size)
        model["prediction"] = "x0" if flags.predict_xstart else "eps"
        model["variance"] = "learned_range" if flags.learn_sigma else "small" if flags.sigma_small else "large"
    return {"network": to_plain(network), "chain": to_plain(chain), **model, "class_names": []}


def _encoder(flags: Flags, kind: Kind) -> dict[str, Any]:
    """Fields of `EncoderConfig`."""

    def flag(name: str) -> Any:  # flags have values of several types
        return getattr(flags, flag_of(name, kind))

    by_channels = flag("num_head_channels") != -1
    if kind != "classifier" and not by_channels and flags.num_heads_upsample not in (-1, flags.num_heads):
        raise ValueError(
            f"num_heads_upsample {flags.num_heads_upsample} is left out: a decoder has as many heads as its encoder "
            f"(num_heads {flags.num_heads}), as in every released model"
        )
    size, published = flag("image_size"), CHANNEL_MULT[kind]
    multipliers = flag("channel_mult") or published.get(size)
    if multipliers is None:
        known = sorted(published)
        raise ValueError(f"channel_mult of a {kind} has a published default for {known} pixels, not {size}: give it")
    channel_mult = _numbers(multipliers, "channel_mult")
    # Sides that the network does not have are dropped, as in the published code.
    sides = _numbers(flag("attention_resolutions"), "attention_resolutions")
    factors = {int(size // side) for side in sides if side > 0}
    return {
        "image_size": size,
        "base_channels": flag("num_channels"),
        "channel_mult": channel_mult,
        "attention_sizes": tuple(size >> level for level in range(len(channel_mult)) if 1 << level in factors),
        "blocks_per_level": flag("num_res_blocks"),
        "head_channels": flag("num_head_channels") if by_channels else None,
        "heads": None if by_channels else flag("num_heads"),
        "dropout": flag("dropout"),
        "resample": "block" if flag("resblock_updown") else "conv" if flag("conv_resample") else "plain",
        "modulation": "scale_shift" if flag("use_scale_shift_norm") else "add",
    }


def _numbers(text: str, flag: str) -> tuple[float, ...]:
    try:
        return tuple(float(item) for item in text.split(",") if item.strip())
    except ValueError:
        raise ValueError(f'{flag} must be numbers with commas between them, got "{text}"') from None


def flags_of(kind: Kind, config: Mapping[str, Any], *, new_attention_order: bool) -> dict[str, object]:
    """The image size and the flags that differ from their published defaults.

    `config_of` reads the config back, but for class names, classes and image channels.

    config: one that `refuse_unpublished` accepts.
    """
    network, chain = config["network"], config["chain"]
    multipliers = _text(network["channel_mult"])
    is_default = multipliers == CHANNEL_MULT[kind].get(network["image_size"])
    encoder = {
        "image_size": network["image_size"],
        "num_channels": network["base_channels"],
        "num_res_blocks": network["blocks_per_level"],
        "num_heads": network["heads"] or getattr(Flags, flag_of("num_heads", kind)),
        "num_head_channels": network["head_channels"] or -1,
        "attention_resolutions": _text(network["attention_sizes"]),
        "channel_mult": "" if is_default else multipliers,  # the published code reads fractions only as a default
        "dropout": network["dropout"],
        "use_scale_shift_norm": network["modulation"] == "scale_shift",
        "resblock_updown": network["resample"] == "block",
        "use_new_attention_order": new_attention_order,
        "conv_resample": network["resample"] != "plain",
    }
    flags: dict[str, object] = {flag_of(name, kind): value for name, value in encoder.items()}
    flags |= {"noise_schedule": chain["schedule"], "diffusion_steps": chain["num_steps"]}
    flags |= {"rescale_timesteps": chain["rescale_t"]}
    if kind == "classifier":
        flags["classifier_pool"] = network["pooling"]
    else:
        flags |= {"class_cond": network["num_classes"] is not None, "predict_xstart": config["prediction"] == "x0"}
        flags |= {"learn_sigma": config["variance"] == "learned_range", "sigma_small": config["variance"] == "small"}
    if kind == "upsampler":
        flags["small_size"] = network["low_res_size"]
    always = ("image_size", "large_size", "small_size")  # no tensor shows them
    return {name: value for name, value in flags.items() if name in always or value != getattr(Flags, name)}


def _text(numbers: Sequence[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers)


def refuse_unpublished(kind: Kind, config: Mapping[str, Any]) -> None:
    """Refuse a config that no published flags describe.

    Raises:
        ValueError: naming the field.
    """
    network, chain = config["network"], config["chain"]
    if chain is None:
        raise ValueError("the published layout is for classifiers of noisy images; this one knows clean images only")
    published = {"chain.schedule": (chain["schedule"], ("linear", "cosine"))}
    if kind != "classifier":
        published |= {
            "network.null_class": (network.get("null_class"), (None, False)),
            "network.conditioning_noise": (network.get("conditioning_noise"), (None,)),
            "prediction": (config["prediction"], ("eps", "x0")),
            "variance": (config["variance"], ("learned_range", "large", "small")),
        }
    for name, (value, known) in published.items():
        if value not in known:
            raise ValueError(f'no published flag stands for {name} "{value}", only for {known}')
