"""Kind and published flags of a network, as far as the shapes of its tensors show them."""

import math
import re
from collections.abc import Mapping

from .flags import Kind, flag_of
from .releases import Shape

MOST_CHANNELS = 64
"""The most image channels, latents' included; networks of features, such as discriminators, have hundreds."""
_POSITIONS = "out.2.positional_embedding"
_POOLS = {_POSITIONS: "attention", "out.1.weight": "spatial_v2", "out.2.weight": "spatial"}


def kinds_of(shapes: Mapping[str, Shape]) -> tuple[Kind, ...]:
    """All kinds that a network with these tensors may have; none where its two ends are of no images.

    A U-Net puts out the channels of its images, or twice as many with a learned variance. So does an upsampler, which
    sees twice the channels of its images.
    """
    seen, out = _ends(shapes)
    if seen > MOST_CHANNELS:
        return ()
    if not any(key.startswith("output_blocks.") for key in shapes):
        return ("classifier",)
    fitting: dict[Kind, bool] = {"unet": out in (seen, 2 * seen), "upsampler": out in (seen / 2, seen) and not seen % 2}
    return tuple(kind for kind in fitting if fitting[kind])


def _ends(shapes: Mapping[str, Shape]) -> tuple[int, int]:
    """Channels that the network sees and puts out; those of colour images where no tensor shows them."""
    first, last = shapes.get("input_blocks.0.0.weight", ()), shapes.get("out.2.weight", ())
    return (first[1] if len(first) > 1 else 3), (last[0] if last else 3)


def image_channels(kind: Kind, shapes: Mapping[str, Shape]) -> int:
    """Channels of the network's images."""
    return _ends(shapes)[0] // (2 if kind == "upsampler" else 1)


def visible_flags(
    kind: Kind, shapes: Mapping[str, Shape], *, image_size: int, blocks_per_level: int | None = None
) -> dict[str, object]:
    """Published flags that the tensors show, {} where theirs is another layout.

    image_size: of the images, unless learned positions of a classifier show it. blocks_per_level: where it is known.

    Raises:
        ValueError: several numbers of blocks a level fit, as of a classifier without attention.
    """
    try:
        fitting = [
            _architecture(kind, shapes, entries, image_size)
            for entries in _entries_a_level(shapes)
            if blocks_per_level in (None, entries - 1)
        ]
    except (KeyError, IndexError, ZeroDivisionError):  # no such tensors, or of other dimensions
        return {}
    if len(fitting) > 1:
        depth = flag_of("num_res_blocks", kind)
        found = " or ".join(str(flags[depth]) for flags in fitting)
        raise ValueError(f"the tensors fit {found} residual blocks a level; give it by --flags, as --{depth}")
    if not fitting:
        return {}
    if kind == "classifier":
        return {**fitting[0], "classifier_pool": next((_POOLS[key] for key in _POOLS if key in shapes), "adaptive")}
    learned = _ends(shapes)[1] == 2 * image_channels(kind, shapes)
    return {**fitting[0], "class_cond": "label_emb.weight" in shapes, "learn_sigma": learned}


def _architecture(kind: Kind, shapes: Mapping[str, Shape], entries: int, image_size: int) -> dict[str, object]:
    """Flags of levels and blocks, with so many input blocks a level, the change of size included."""
    base = shapes["time_embed.0.weight"][1]
    blocks = _blocks(shapes)
    starts = range(1, 1 + max(blocks), entries)
    channels = [shapes[f"input_blocks.{start}.0.out_layers.3.bias"][0] for start in starts]
    flags: dict[str, object] = {
        "num_channels": base,
        "num_res_blocks": entries - 1,
        "channel_mult": [number / base for number in channels],
        "use_scale_shift_norm": shapes["input_blocks.1.0.emb_layers.1.weight"][0] == 2 * channels[0],
    }
    if positions := shapes.get(_POSITIONS):
        flags["image_size"] = image_size = math.isqrt(positions[1] - 1) << len(starts) - 1
    attended = [level for level, start in enumerate(starts) if f"input_blocks.{start}.1.qkv.weight" in shapes]
    flags["attention_resolutions"] = [image_size >> level for level in attended]
    if len(starts) > 1:
        flags["resblock_updown"] = entries in blocks
        flags["conv_resample"] = entries in blocks or f"input_blocks.{entries}.0.op.weight" in shapes
    return {flag_of(name, kind): value for name, value in flags.items()}


def _entries_a_level(shapes: Mapping[str, Shape]) -> list[int]:
    """Numbers of input blocks a level, the change of size included, with which all blocks lie where tensors are."""
    blocks = _blocks(shapes)
    total = 1 + max(blocks, default=0)
    divisors = [entries for entries in range(2, total + 1) if total % entries == 0]
    halving = set(range(1, total)) - blocks  # by a convolution or without parameters
    if not halving and kinds_of(shapes) == ("classifier",):
        return [entries for entries in divisors if _levels_are_uniform(shapes, entries, total)]
    if not halving:
        halving = {1 + at for at in _indices(shapes, r"output_blocks\.(\d{1,4})\.[12]\.in_layers\.0\.weight")}
    return [entries for entries in divisors if halving == set(range(entries, total, entries))]


def _levels_are_uniform(shapes: Mapping[str, Shape], entries: int, total: int) -> bool:
    """True if the blocks of each level are alike, and those that halve the size have nothing besides."""
    parts = ("1.qkv.weight", "0.out_layers.3.bias", "0.skip_connection.weight")
    attention, channels, skip = ([shapes.get(f"input_blocks.{i}.{part}") for i in range(total)] for part in parts)
    halving = range(entries, total, entries)
    return not any(attention[i] or skip[i] for i in halving) and all(
        len({(attention[i], channels[i]) for i in range(start, start + entries - 1)}) == 1
        for start in range(1, total, entries)
    )


def _blocks(shapes: Mapping[str, Shape]) -> set[int]:
    return _indices(shapes, r"input_blocks\.(\d{1,4})\.0\.in_layers\.0\.weight")


def _indices(shapes: Mapping[str, Shape], pattern: str) -> set[int]:
    return {int(found[1]) for key in shapes if (found := re.fullmatch(pattern, key))}
