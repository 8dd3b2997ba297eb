"""Networks of the stored numbers, their deterministic weights under published flags; shapes of the released files."""

import gzip
import json
import zlib
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from oracles.golden import GOLDEN, arrays, sidecar
from torch import Tensor, nn

from classifiers.model import ClassifierConfig, NoisyClassifier
from guided_diffusion.config import from_plain
from guided_diffusion.models.unet import UNet, UNetConfig
from guided_diffusion.models.upsampler import Upsampler, UpsamplerConfig
from guided_diffusion.openai import Converted, convert
from guided_diffusion.openai.releases import PRESETS

ARCHITECTURES: dict[str, Any] = json.loads(gzip.decompress((GOLDEN / "arch.json.gz").read_bytes()))
RELEASED = {
    "imagenet64_class_cond": "64x64_diffusion",
    "imagenet128_class_cond": "128x128_diffusion",
    "imagenet256_class_cond": "256x256_diffusion",
    "imagenet256_uncond": "256x256_diffusion_uncond",
    "imagenet512_class_cond": "512x512_diffusion",
    "upsampler_64_to_256": "64_256_upsampler",
    "upsampler_128_to_512": "128_512_upsampler",
    **{name: name for name in ("lsun_bedroom", "lsun_cat", "lsun_horse", "lsun_horse_nodropout")},
    **{f"classifier_{side}": f"{side}x{side}_classifier" for side in (64, 128, 256, 512)},
}
"""Names of the described architectures -> names of the released files."""

Hyperparameters = Mapping[str, Any]  # JSON, as the sidecars have it


def published_weights(layout: list[tuple[str, list[int]]], checks: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of a layout, each tensor drawn from a generator seeded with its name, and checked by its sums."""
    weights = {key: _drawn(key, checks["weight_prefix"], shape) for key, shape in layout}
    numbers = torch.cat([tensor.flatten().double() for tensor in weights.values()])
    assert (len(weights), len(numbers)) == (checks["n_tensors"], checks["n_params"])
    torch.testing.assert_close(float(numbers.sum()), checks["weight_sum"], rtol=1e-12, atol=0)
    torch.testing.assert_close(float((numbers**2).sum()), checks["weight_sum_of_squares"], rtol=1e-12, atol=0)
    return weights


def _drawn(key: str, prefix: str, shape: list[int]) -> Tensor:
    numbers = np.random.default_rng(zlib.crc32((prefix + key).encode())).standard_normal(shape)
    if len(shape) > 1:
        numbers = numbers / np.sqrt(np.prod(shape[1:]))
    else:
        numbers = (1.0 if key.endswith(".weight") else 0.0) + 0.1 * numbers
    return torch.from_numpy(numbers.astype(np.float32))


def published_flags(network: Hyperparameters, *, low_res_size: int | None = None) -> dict[str, object]:
    """The published command-line flags of a network."""
    return _classifier_flags(network) if network["kind"] == "classifier" else _unet_flags(network, low_res_size)


def _unet_flags(network: Hyperparameters, low_res_size: int | None) -> dict[str, object]:
    size = network["image_size"]
    sizes = {"image_size": size} if low_res_size is None else {"large_size": size, "small_size": low_res_size}
    return {
        **sizes,
        "num_channels": network["base_channels"],
        "num_res_blocks": network["res_blocks_per_level"],
        "channel_mult": network["channel_multipliers"],
        "attention_resolutions": [size // factor for factor in network["attention_downsample_factors"]],
        "num_heads": network["attention_heads"],
        "num_head_channels": network["attention_head_channels"],
        "num_heads_upsample": network["attention_heads_decoder"],
        "dropout": network["dropout"],
        "class_cond": network["num_classes"] is not None,
        "learn_sigma": network["output_channels"] == 6,
        "use_scale_shift_norm": network["scale_shift_norm"],
        "resblock_updown": network["resblock_updown"],
        "use_new_attention_order": network["new_attention_order"],
        "conv_resample": network["resample_with_conv"],
    }


def _classifier_flags(network: Hyperparameters) -> dict[str, object]:
    size = network["image_size"]
    return {
        "image_size": size,
        "classifier_width": network["base_channels"],
        "classifier_depth": network["res_blocks_per_level"],
        "classifier_channel_mult": network["channel_multipliers"],
        "classifier_attention_resolutions": [size // factor for factor in network["attention_downsample_factors"]],
        "classifier_num_heads": network["attention_heads"],
        "classifier_num_head_channels": network["attention_head_channels"],
        "classifier_use_new_attention_order": network["new_attention_order"],
        "classifier_use_scale_shift_norm": network["scale_shift_norm"],
        "classifier_resblock_updown": network["resblock_updown"],
        "classifier_conv_resample": network["resample_with_conv"],
        "classifier_pool": network["pool"],
    }


def built(converted: Converted) -> nn.Module:
    """The network of a converted model with its weights, in evaluation mode, its parameters frozen."""
    kinds = {"unet": (UNetConfig, UNet), "upsampler": (UpsamplerConfig, Upsampler)}
    config_class, network_class = {**kinds, "classifier": (ClassifierConfig, NoisyClassifier)}[converted.kind]
    with torch.device("meta"):
        network = network_class(from_plain(config_class, converted.config["network"], source="converted"))
    network.load_state_dict(converted.weights, assign=True)
    return network.eval().requires_grad_(False)


def stored_network(sidecar: Mapping[str, Any], *, low_res_size: int | None = None) -> nn.Module:
    """The network of a sidecar with the keys "hyperparameters", "weights" and "state_dict"."""
    weights = published_weights(sidecar["state_dict"], sidecar["weights"])
    return built(convert(published_flags(sidecar["hyperparameters"], low_res_size=low_res_size), weights))


def released_weights(architecture: str, device: str = "meta") -> dict[str, Tensor]:
    """Tensors of a released file's names and shapes that take no memory, on the CPU by pointing at one number."""
    layout = ARCHITECTURES[architecture]["state_dict"]
    return {key: torch.zeros((), device=device).expand(shape) for key, shape in layout}


@cache
def released_model(architecture: str) -> Converted:
    """A released file as this project has it, its tensors without memory. Nobody changes what is in it."""
    return convert(PRESETS[RELEASED[architecture]].flags, released_weights(architecture))


def stored_flags_and_weights(name: str) -> tuple[dict[str, object], dict[str, Tensor]]:
    """Flags and weights of a small network."""
    described = sidecar(name)
    low_res = arrays(name).get("low_res")
    flags = published_flags(described["hyperparameters"], low_res_size=None if low_res is None else low_res.shape[-1])
    return flags, published_weights(described["state_dict"], described["weights"])


def as_command_line(flags: Mapping[str, object]) -> str:
    """Flags as they are written on a command line, those without a value left out."""
    return " ".join(f"--{name} {_as_text(value)}" for name, value in flags.items() if value is not None)


def _as_text(value: object) -> str:
    return ",".join(str(item) for item in value) if isinstance(value, list) else str(value)
