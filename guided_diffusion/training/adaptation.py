"""Adaptation of a trained network's weights to a network of other classes, channels, size or outputs.

What two networks share is kept to the bit. Where an image, a label or an output of the one has an equivalent of the
other, both networks agree on it. Each change is described in a sentence.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..data.labels import matched
from ..diffusion.denoiser import has_learned_variance

Model = Mapping[str, Any]
"""A model as plain values, as in a checkpoint's config.json."""
Weights = dict[str, Tensor]

COLOURS = {1: 1, 3: 3, 4: 3}
"""Channels of colour of images with so many channels: grey, RGB, and RGB with alpha."""


class Adapted(NamedTuple):
    """Weights of the network to be trained."""

    weights: Weights
    changes: list[str]
    """Sentences about what was adapted."""


def adapted(weights: Mapping[str, Tensor], there: Model, here: Model, initial: Mapping[str, Tensor]) -> Adapted:
    """The weights of the model `there` for the model `here`; initial: of its network, for what the other lacks.

    Raises:
        ValueError: a difference across which weights cannot follow, naming the field and both values.
    """
    _refuse_other_architecture(there["network"], here["network"])
    _refuse_other_outputs(there, here)
    found = {name: tensor.float() for name, tensor in weights.items()}  # of an average that is kept in float16
    changes = _changed_settings(there, here)
    prefix = "unet." if "unet.conv_out.weight" in initial else ""
    changes += _adapt_channels(found, there, here, prefix)
    if f"{prefix}conv_out.weight" in initial:
        changes += _adapt_label_table(found, there, here, initial, prefix)
    else:
        changes += _adapt_pooling(found, there, here, initial)
    if there["network"].get("conditioning_noise") is None:  # what an upsampler adds for its rate begins at 0
        found |= {name: tensor for name, tensor in initial.items() if name.startswith("noise_rate.")}
    wrong = [name for name in {**initial, **found} if _shape(found, name) != _shape(initial, name)]
    if wrong:
        first = f'"{wrong[0]}" is {_shape(found, wrong[0])} in the file, {_shape(initial, wrong[0])} in the network'
        raise ValueError(f"the weights that --from begins with do not fit their own description: {first}")
    return Adapted(found, changes)


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None


def _refuse_other_architecture(there: Model, here: Model) -> None:
    names = ("base_channels", "channel_mult", "blocks_per_level", "head_channels", "heads", "resample", "modulation")
    for name in names:
        if there.get(name) != here.get(name):
            raise _refusal(f"network.{name}", there.get(name), here.get(name), "that is another network")
    levels = [{network["image_size"] // size for size in network["attention_sizes"]} for network in (there, here)]
    if levels[0] != levels[1]:
        sizes = sorted((here["image_size"] // level for level in levels[0]), reverse=True)
        reason = f"their attention at image_size {here['image_size']} is at {sizes}"
        raise _refusal("network.attention_sizes", there["attention_sizes"], here["attention_sizes"], reason)


def _refuse_other_outputs(there: Model, here: Model) -> None:
    for name in ("prediction", "variance"):
        before, after = there.get(name), here.get(name)
        are_both_needed = name == "prediction" or (
            has_learned_variance(after or "small") and "learned" in (before, after)
        )
        if before != after and are_both_needed:
            raise _refusal(name, before, after, "their outputs mean something else")
    before, after = (model["network"].get("conditioning_noise") for model in (there, here))
    if before is not None and after is None:
        raise _refusal("conditioning_noise", before, after, "they are conditioned on its rate")


def _refusal(name: str, there: Any, here: Any, reason: str) -> ValueError:  # plain values of any kind
    return ValueError(
        f"{name} is {there} in the weights that --from begins with, and {here} was asked for, but {reason}; leave "
        f"--{name} out"
    )


def _changed_settings(there: Model, here: Model) -> list[str]:
    """Changes of settings that leave all weights as they are."""
    old_chain, new_chain = there.get("chain"), here.get("chain")
    changed = ["the images were clean and have noise, which the network has to learn"] if new_chain else []
    if old_chain and new_chain:
        advice = "the network has to learn anew which noise its timesteps mean"
        pairs = {name: (old_chain.get(name), new) for name, new in new_chain.items()}
        changed = [f"chain.{name} was {old} and is {new}; {advice}" for name, (old, new) in pairs.items() if old != new]
    networks = there["network"], here["network"]
    for name in ("image_size", "low_res_size", "conditioning_noise"):
        old, new = (network.get(name) for network in networks)
        changed += [f"{name} was {old} and is {new}"] if old != new else []
    return changed


def _adapt_channels(found: Weights, there: Model, here: Model, prefix: str) -> list[str]:
    before, after = there["network"]["in_channels"], here["network"]["in_channels"]
    learned = [has_learned_variance(model["variance"]) for model in (there, here) if "variance" in model]
    said: list[str] = []
    if before != after:
        if not {before, after} <= COLOURS.keys():
            raise _refusal("data.mode", f"{before} channels", f"{after} channels", "only 1, 3 and 4 can follow")
        name = f"{prefix}encoder.conv_in.weight"
        images = rearrange(found[name], "o (n c) y x -> o n c y x", c=before)  # an upsampler has two
        taken = colour_map(before, after) * (COLOURS[before] / COLOURS[after])
        found[name] = rearrange(torch.einsum("hc,oncyx->onhyx", taken, images), "o n h y x -> o (n h) y x")
        said.append(f"images had {before} channels and have {after}: {_CHANNELS[before, after]}")
    if learned and (before != after or learned[0] != learned[1]):
        for name in (f"{prefix}conv_out.weight", f"{prefix}conv_out.bias"):
            mean, *variance = found[name].split(before)
            halves = [torch.tensordot(colour_map(before, after), mean, 1)]
            if learned[1]:  # 0 lies in the middle between the smallest and the largest variance
                spread = colour_map(before, after, alpha=True)
                halves.append(torch.tensordot(spread, variance[0], 1) if variance else torch.zeros_like(halves[0]))
            found[name] = torch.cat(halves)
    if learned and learned[0] != learned[1]:
        begins = "begins in the middle of its range" if learned[1] else "is left out"
        said.append(f"the learned variance {begins}")
    return said


_CHANNELS = {
    (3, 1): "the first convolution has the sum of its weights of red, green and blue, the last one their mean",
    (1, 3): "each colour has a third of the first convolution's weights, and all of the last one's",
    (3, 4): "alpha begins without weights",
    (4, 3): "the weights of alpha are left out",
    (1, 4): "each colour has a third of the first convolution's weights, and all of the last one's; alpha has none",
    (4, 1): "the first convolution has the sum of its weights of the colours, the last one their mean, without alpha's",
}


def colour_map(before: int, after: int, *, alpha: bool = False) -> Tensor:
    """(after, before): each channel of images after, as a mean of those before.

    alpha: an alpha that there was not before is the mean of the colours; else it is 0.
    """
    old, new = COLOURS.get(before, before), COLOURS.get(after, after)
    table = torch.zeros(after, before)
    table[:new, :old] = torch.eye(old) if old == new else 1 / old
    if after == 4:
        table[3] = torch.eye(4)[3] if before == 4 else torch.full((before,), float(alpha) / old)
    return table


def _adapt_label_table(
    found: Weights, there: Model, here: Model, initial: Mapping[str, Tensor], prefix: str
) -> list[str]:
    name, bias = f"{prefix}label.weight", f"{prefix}encoder.time.mlp.2.bias"
    before, after = there["network"], here["network"]
    known, wanted, rows = before["num_classes"], after["num_classes"], found.pop(name, None)
    if rows is None and wanted is None:
        return []
    if rows is None:
        found[name] = torch.zeros_like(initial[name])
        return [f"the network is conditioned on {wanted} classes, whose rows begin at 0"]
    mean = rows[:known].mean(dim=0)
    if wanted is None:
        called = "the row of the null class" if before["null_class"] else f"the mean row of its {known} classes"
        found[bias] = found[bias] + (rows[known] if before["null_class"] else mean)
        return [f"the network is not conditioned on the class: {called} is part of the timestep's embedding"]
    # Rows all alike would be told apart only slowly, so that new ones get the spread of the known ones.
    new = mean + rows[:known].std(dim=0, correction=0) * initial[name][:wanted]
    names = _names(there, known), _names(here, wanted)
    table, said = _rows_by_name(rows[:known], *names, new=new, begin="with the mean and the spread of all")
    if after["null_class"]:
        table = torch.cat([table, (rows[known] if before["null_class"] else mean)[None]])
        said += [] if before["null_class"] else ["the null class begins at the mean row"]
    found[name] = table
    return said


def _names(model: Model, count: int) -> Sequence[str]:
    return model.get("class_names") or [str(label) for label in range(count)]


def _rows_by_name(
    rows: Tensor, there: Sequence[str], here: Sequence[str], *, new: Tensor, begin: str
) -> tuple[Tensor, list[str]]:
    """One row a name: that of the same name there, else its row of `new`; and the change in words, if there is any."""
    places = matched(here, there)
    if places == [*range(len(there))]:
        return rows, []
    kept = [name for name, place in zip(here, places, strict=True) if place >= 0]
    others = [name for name, place in zip(here, places, strict=True) if place < 0]
    table = torch.stack([rows[place] if place >= 0 else own for place, own in zip(places, new, strict=True)])
    beginning = f"; {_listed(others)} begin {begin}" if others else ""
    return table, [f"of {len(there)} classes {_listed(kept)} keep their rows{beginning}"]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5]) + (", .." if len(names) > 5 else "")
    return f"{len(names)} ({shown})" if names else "none"


def _adapt_pooling(found: Weights, there: Model, here: Model, initial: Mapping[str, Tensor]) -> list[str]:
    before, after = there["network"]["pooling"], here["network"]["pooling"]
    if before != after:
        _begin_anew(found, initial, "pool.", "head.")
        return [f"pooling was {before} and is {after}: it and the head begin anew"]
    old, new = (model["network"]["image_size"] >> len(model["network"]["channel_mult"]) - 1 for model in (there, here))
    said: list[str] = []
    if after == "attention" and old != new:
        found["pool.position"] = resized_positions(found["pool.position"], new)
        said.append(f"the {old}x{old} positions of attention pooling are interpolated to {new}x{new}")
    return said + _adapt_head(found, there, here, initial)


def _begin_anew(found: Weights, initial: Mapping[str, Tensor], *prefixes: str) -> None:
    for name in [name for name in found if name.startswith(prefixes)]:
        del found[name]
    found |= {name: tensor for name, tensor in initial.items() if name.startswith(prefixes)}


def resized_positions(table: Tensor, side: int) -> Tensor:
    """(1 + side^2, C) of (1 + old^2, C): the first row is that of the mean; the others are resized like a picture."""
    grid = rearrange(table[1:], "(y x) c -> 1 c y x", y=round((len(table) - 1) ** 0.5))
    resized = F.interpolate(grid, size=(side, side), mode="bicubic", antialias=True)
    return torch.cat([table[:1], rearrange(resized, "1 c y x -> (y x) c")])


def _adapt_head(found: Weights, there: Model, here: Model, initial: Mapping[str, Tensor]) -> list[str]:
    """The last layer: a row for each class or attribute of the same name; anew where it means something else."""
    (old, was), (new, wanted) = ((model.get("target") or "classes", _outputs(model)) for model in (there, here))
    if old != new or (new == "regression" and was != wanted):
        _begin_anew(found, initial, "head.")
        return [
            f"the target was {old} ({', '.join(was[:5])}) and is {new} ({', '.join(wanted[:5])}): the head begins anew"
        ]
    said: list[str] = []
    for name in ("head.weight", "head.bias") if new != "regression" else ():
        fill, begin = (
            (found[name].mean(dim=0), "at the mean row") if new == "classes" else (initial[name][0] * 0, "at 0")
        )
        found[name], said = _rows_by_name(
            found[name], was, wanted, new=fill.expand(len(wanted), *fill.shape), begin=begin
        )
    return said


def _outputs(model: Model) -> Sequence[str]:
    """Names of the classes or columns that the last layer is for."""
    return model["columns"]["names"] if "columns" in model else _names(model, model["network"]["num_classes"])
