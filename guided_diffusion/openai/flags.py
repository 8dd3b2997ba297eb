"""The published code's command-line flags (github.com/openai/guided-diffusion): their names, defaults and values.

What they mean is the business of `description`.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

# fmt: off
WITHOUT_EFFECT = frozenset((
    "use_fp16", "use_checkpoint", "classifier_use_fp16", "timestep_respacing", "use_kl",
    "rescale_learned_sigmas", "clip_denoised", "num_samples", "batch_size", "use_ddim", "model_path",
    "classifier_path", "classifier_scale", "base_samples", "data_dir", "val_data_dir", "noised", "iterations",
    "lr", "weight_decay", "anneal_lr", "microbatch", "schedule_sampler", "resume_checkpoint", "log_interval",
    "eval_interval", "save_interval", "lr_anneal_steps", "ema_rate", "fp16_scale_growth", "save_dir",
))
# fmt: on
"""Published flags that say how to train or sample, not what a network is: accepted, and not read."""


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Published flags with their published defaults; the last seven are arguments of the published networks that no
    published flag reaches."""

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


_SHARED_NAMES = ("channel_mult", "num_heads", "num_head_channels", "use_new_attention_order", "conv_resample")
_TRUE, _FALSE = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")


def read_flags(given: Mapping[str, object]) -> Flags:
    """Flags by name, values of their own type or as text ("True", "32,16,8"); None and missing: the published default.

    Flags of a classifier alone, recognised by the absence of num_channels, may call its heads, attention order and
    channel multipliers by the U-Net's names: the published classifier has arguments for them, but no flags. Beside
    num_channels those names are the U-Net's, as on a published sampling command line.

    Raises:
        ValueError: an unknown flag or an unreadable value, naming it.
    """
    types = {field.name: field.type for field in fields(Flags)}
    unknown = sorted(given.keys() - types.keys() - WITHOUT_EFFECT)
    if unknown:
        raise ValueError(f"unknown published flags {unknown}; known are {sorted(types)}")
    values = {name: value for name, value in given.items() if name in types and value is not None}
    if "num_channels" not in values:
        shared = {f"classifier_{name}": values[name] for name in _SHARED_NAMES if name in values}
        values = {**shared, **values}
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
            return ",".join(f"{item:g}" for item in value)
        return wanted(value)
    except (TypeError, ValueError):
        raise ValueError(f"published flag {name} must be of type {wanted.__name__}, got {value!r}") from None


def parse_command_line(text: str) -> dict[str, str]:
    """{"image_size": "64", ..} from "--image_size 64 ..", as the published commands are printed.

    Raises:
        ValueError: text that is not pairs of --name and value.
    """
    words = shlex.split(text.replace("=", " "))
    names, values = words[::2], words[1::2]
    if len(names) != len(values) or not all(name.startswith("--") for name in names):
        raise ValueError(f'flags must be pairs "--name value", got "{text}"')
    return {name.removeprefix("--"): value for name, value in zip(names, values, strict=True)}
