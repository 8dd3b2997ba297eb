"""Kinds and published flags that shapes of tensors show, of stored and of released networks."""

import pytest
from oracles.golden import sidecar
from oracles.published import ARCHITECTURES, RELEASED, published_flags

from guided_diffusion.openai.flags import config_of, read_flags
from guided_diffusion.openai.releases import PRESETS
from guided_diffusion.openai.tensor_shapes import kinds_of, visible_flags

NETWORKS = (
    *(f"unet_{name}" for name in ("u01", "u02", "u03", "u05_superres", "u06_nonsquare", "u07_halfmult")),
    *(f"unet_{name}" for name in ("u08_onelevel_dropout", "u10_superres_uncond", "u11_middle_attention_only")),
    *(f"classifier_{name}" for name in ("c01_attention", "c02_adaptive", "c05_attention_halfmult")),
)
HIDDEN = ("image_size", "large_size", "small_size", "dropout", "conv_resample")
"""With the attention's, flags that no tensor shows; of a single level none shows how sizes change."""


@pytest.mark.parametrize("name", NETWORKS)
def test_flags_that_tensors_show_need_not_be_given(name: str):
    network, shapes = (
        sidecar(name)["hyperparameters"],
        {key: tuple(shape) for key, shape in sidecar(name)["state_dict"]},
    )
    kind = "classifier" if "classifier" in name else "upsampler" if "superres" in name else "unet"
    flags = published_flags(network, low_res_size=16 if kind == "upsampler" else None)
    hidden = {flag: value for flag, value in flags.items() if flag in HIDDEN or "head" in flag or "order" in flag}
    visible = visible_flags(kind, shapes, image_size=network["image_size"])
    assert {"num_channels", "classifier_width"} & visible.keys()
    told, shown = read_flags(flags), read_flags(hidden, visible=visible)
    assert config_of(shown, kind, num_classes=9) == config_of(told, kind, num_classes=9)
    assert kind in kinds_of(shapes)


@pytest.mark.parametrize("architecture", RELEASED)
def test_the_tensors_of_released_files_show_their_architecture(architecture: str):
    preset = PRESETS[RELEASED[architecture]]
    shapes = {key: tuple(shape) for key, shape in ARCHITECTURES[architecture]["state_dict"]}
    size = ARCHITECTURES[architecture]["hyperparameters"]["image_size"]
    visible = visible_flags(preset.kind, shapes, image_size=size)
    assert {"num_channels", "classifier_width"} & visible.keys()
    told, shown = read_flags(preset.flags), read_flags({**preset.flags, **visible})
    assert config_of(shown, preset.kind, num_classes=9) == config_of(told, preset.kind, num_classes=9)


@pytest.mark.parametrize(
    ("seen", "out", "kinds"),
    [
        (3, 3, ["unet"]), (3, 6, ["unet"]), (1, 2, ["unet"]), (4, 8, ["unet"]), (6, 12, ["unet"]),
        (6, 3, ["upsampler"]), (2, 1, ["upsampler"]), (8, 4, ["upsampler"]),
        (6, 6, ["unet", "upsampler"]), (2, 2, ["unet", "upsampler"]), (4, 4, ["unet", "upsampler"]),
        (3, 5, []), (512, 512, []),
    ],
)  # fmt: skip
def test_the_kinds_that_both_ends_of_a_network_allow(seen: int, out: int, kinds: list[str]):
    ends = {"input_blocks.0.0.weight": (32, seen, 3, 3), "out.2.weight": (out, 32, 3, 3)}
    assert list(kinds_of({**ends, "output_blocks.0.0.in_layers.0.weight": (32,)})) == kinds


def test_a_classifier_without_attention_asks_for_its_depth_where_its_levels_look_alike():
    block = {"in_layers.0.weight": (64,), "out_layers.3.bias": (64,), "emb_layers.1.weight": (128, 256)}
    shapes = {f"input_blocks.{i}.0.{key}": shape for i in range(1, 6) for key, shape in block.items()}
    shapes |= {
        "time_embed.0.weight": (256, 64),
        "input_blocks.0.0.weight": (64, 3, 3, 3),
        "out.3.weight": (9, 64, 1, 1),
    }
    with pytest.raises(ValueError, match="fit 1 or 2 or 5 residual blocks a level; .*--classifier_depth"):
        visible_flags("classifier", shapes, image_size=64)
    shown = visible_flags("classifier", shapes, image_size=64, blocks_per_level=2)
    assert (shown["classifier_channel_mult"], shown["classifier_pool"]) == ([1, 1], "adaptive")
