"""The released files: their published flags, and a fingerprint of their keys and shapes.

Flags are those of the published sampling commands, without those at their defaults. Dropout and the classifiers' noise
schedules, which sampling does not read, are those of training (ADM tables 11 to 13). Besides ADM's files
(github.com/openai/guided-diffusion) these are those of improved-diffusion (github.com/openai/improved-diffusion), the
faces of DPS (github.com/DPS2022/diffusion-posterior-sampling), which share flags and shapes with all files of P2
weighting (github.com/jychoi118/P2-weighting), and the classifier of discriminator guidance (github.com/alsdudrla10/DG),
whose noise is that of continuous time, at most four timesteps from the linear chain's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

from .flags import Kind

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A released file."""

    kind: Kind
    fingerprint: str
    """`fingerprint` of its keys and shapes."""
    flags: Mapping[str, object]
    """Published flags by name."""
    classes: Literal["imagenet"] | None = "imagenet"
    """Classes of its training data, of unconditional models too."""


_ADM: Mapping[str, object] = {
    "num_channels": 256,
    "num_res_blocks": 2,
    "num_head_channels": 64,
    "attention_resolutions": "32,16,8",
    "resblock_updown": True,
    "class_cond": True,
    "learn_sigma": True,
}
_ADM_64: Mapping[str, object] = {
    **_ADM,
    "image_size": 64,
    "num_channels": 192,
    "num_res_blocks": 3,
    "use_new_attention_order": True,
    "noise_schedule": "cosine",
    "dropout": 0.1,
}
_ADM_128: Mapping[str, object] = {**_ADM, "image_size": 128, "num_head_channels": -1, "num_heads": 4}
_UNCONDITIONAL_256: Mapping[str, object] = {**_ADM, "image_size": 256, "class_cond": False}
_LSUN: Mapping[str, object] = {**_UNCONDITIONAL_256, "dropout": 0.1}
_TO_256 = {**_ADM, "large_size": 256, "small_size": 64, "num_channels": 192, "num_head_channels": -1, "num_heads": 4}
_TO_512 = {**_ADM, "large_size": 512, "small_size": 128, "num_channels": 192, "attention_resolutions": "32,16"}
_CLASSIFIER_64 = {"image_size": 64, "classifier_depth": 4, "noise_schedule": "cosine"}
_PRINT_256 = "fe93167087f7317b"
_IMPROVED: Mapping[str, object] = {
    "num_res_blocks": 3,
    "learn_sigma": True,
    "noise_schedule": "cosine",
    "diffusion_steps": 4000,
    "rescale_timesteps": True,
}
_IMPROVED_32 = {**_IMPROVED, "image_size": 32, "channel_mult": "1,2,2,2", "dropout": 0.3}
_IMPROVED_64 = {**_IMPROVED, "image_size": 64}
_IMPROVED_COND = {**_IMPROVED_64, "num_channels": 192, "class_cond": True, "rescale_timesteps": False}
_IMPROVED_TO_256 = {
    "large_size": 256, "small_size": 64, "num_channels": 192, "learn_sigma": True, "class_cond": True,
    "diffusion_steps": 4000,
}  # fmt: skip
_IMPROVED_LSUN = {
    "image_size": 256, "num_heads": 1, "learn_sigma": True, "use_scale_shift_norm": False,
    "attention_resolutions": "16",
}  # fmt: skip
_FACES = {
    "image_size": 256, "num_res_blocks": 1, "num_head_channels": 64, "learn_sigma": True, "resblock_updown": True,
    "attention_resolutions": "16",
}  # fmt: skip
_DG_32 = {"image_size": 32, "classifier_depth": 4, "classifier_channel_mult": "1,2,4"}

PRESETS: Mapping[str, Preset] = {
    "64x64_diffusion": Preset(kind="unet", fingerprint="40271b72ad5de28c", flags=_ADM_64),
    "128x128_diffusion": Preset(kind="unet", fingerprint="acf0fda1a78ff280", flags=_ADM_128),
    "256x256_diffusion": Preset(kind="unet", fingerprint="d861e8fba1572652", flags={**_ADM, "image_size": 256}),
    "256x256_diffusion_uncond": Preset(kind="unet", fingerprint=_PRINT_256, flags=_UNCONDITIONAL_256),
    "512x512_diffusion": Preset(kind="unet", fingerprint="1e27698a1c14eeff", flags={**_ADM, "image_size": 512}),
    "64_256_upsampler": Preset(kind="upsampler", fingerprint="49f2f641e45d36d2", flags=_TO_256),
    "128_512_upsampler": Preset(kind="upsampler", fingerprint="24589324a586c004", flags=_TO_512),
    "lsun_bedroom": Preset(kind="unet", fingerprint=_PRINT_256, flags=_LSUN, classes=None),
    "lsun_cat": Preset(kind="unet", fingerprint=_PRINT_256, flags=_LSUN, classes=None),
    "lsun_horse": Preset(kind="unet", fingerprint=_PRINT_256, flags=_LSUN, classes=None),
    "lsun_horse_nodropout": Preset(kind="unet", fingerprint=_PRINT_256, flags=_UNCONDITIONAL_256, classes=None),
    "64x64_classifier": Preset(kind="classifier", fingerprint="396fdbdd8fe8469f", flags=_CLASSIFIER_64),
    "128x128_classifier": Preset(kind="classifier", fingerprint="17a295211f77efb8", flags={"image_size": 128}),
    "256x256_classifier": Preset(kind="classifier", fingerprint="45ff8351dfa42a32", flags={"image_size": 256}),
    "512x512_classifier": Preset(kind="classifier", fingerprint="c63bec1296488c9d", flags={"image_size": 512}),
    "cifar10_uncond_50M_500K": Preset(kind="unet", fingerprint="50c250208b526368", flags=_IMPROVED_32, classes=None),
    "cifar10_uncond_vlb_50M_500K": Preset(
        kind="unet", fingerprint="50c250208b526368", flags=_IMPROVED_32, classes=None
    ),
    "imagenet64_uncond_100M_1500K": Preset(kind="unet", fingerprint="6d0ee649186dff72", flags=_IMPROVED_64),
    "imagenet64_uncond_vlb_100M_1500K": Preset(kind="unet", fingerprint="6d0ee649186dff72", flags=_IMPROVED_64),
    "imagenet64_cond_270M_250K": Preset(kind="unet", fingerprint="a33187769b947c95", flags=_IMPROVED_COND),
    "upsample_cond_500K": Preset(kind="upsampler", fingerprint="c5756b6c6ad796b8", flags=_IMPROVED_TO_256),
    "lsun_uncond_100M_1200K_bs128": Preset(
        kind="unet", fingerprint="dcb3f4ec45638987", flags=_IMPROVED_LSUN, classes=None
    ),
    "lsun_uncond_100M_2400K_bs64": Preset(
        kind="unet", fingerprint="dcb3f4ec45638987", flags=_IMPROVED_LSUN, classes=None
    ),
    "ffhq_10m": Preset(kind="unet", fingerprint="25b521c23bf73af6", flags=_FACES, classes=None),
    "32x32_classifier": Preset(kind="classifier", fingerprint="2bc7e15451589225", flags=_DG_32, classes=None),
}
"""The released files by name, without ".pt"."""


def fingerprint(shapes: Mapping[str, Shape]) -> str:
    """16 hexadecimal digits of a hash of a state dict's keys and shapes, in any order."""
    lines = sorted(f"{key} {'x'.join(str(side) for side in shape)}" for key, shape in shapes.items())
    return sha256("\n".join(lines).encode()).hexdigest()[:16]


def presets_of(shapes: Mapping[str, Shape], file: Path = Path()) -> list[str]:
    """Names of the released files with these keys and shapes; first the one that `file` is named after, if any."""
    found = fingerprint(shapes)
    names = [name for name, preset in PRESETS.items() if preset.fingerprint == found]
    return sorted(names, key=lambda name: name != file.stem)
