"""Weights adapted to another model: the outputs that are kept, the changes in words, and refusals."""

from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch
from small_unet import images, model, network, outputs

from classifiers.model import ClassifierConfig, NoisyClassifier
from guided_diffusion.config import to_plain
from guided_diffusion.diffusion.model import DiffusionConfig
from guided_diffusion.models.unet import UNet
from guided_diffusion.training.adaptation import adapted, colour_map, resized_positions


def turned_into(there: DiffusionConfig, here: DiffusionConfig) -> tuple[UNet, UNet, list[str]]:
    """A network, what it is adapted to, and the changes."""
    before, after = network(there), UNet(here.network).eval()
    weights, changes = adapted(before.state_dict(), to_plain(there), to_plain(here), after.state_dict())
    after.load_state_dict(weights)
    return before, after, changes


def test_an_equal_model_gets_the_weights_to_the_bit():
    there = model(num_classes=3, null_class=True)
    before, after, changes = turned_into(there, there)
    assert changes == []
    assert all(torch.equal(tensor, after.state_dict()[name]) for name, tensor in before.state_dict().items())


def test_weights_stored_in_float16_begin_a_float32_network():
    there, here = model(3), model(1, num_classes=2)
    stored = {name: tensor.half() for name, tensor in network(there).state_dict().items()}
    weights, _ = adapted(stored, to_plain(there), to_plain(here), UNet(here.network).state_dict())
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert torch.equal(weights["norm_out.bias"], stored["norm_out.bias"].float())


def test_a_classifier_of_clean_images_is_said_to_meet_noise():
    state = network(model()).state_dict()
    clean = to_plain(model()) | {"chain": None}
    assert adapted(state, clean, to_plain(model()), state).changes == [
        "the images were clean and have noise, which the network has to learn"
    ]


def test_classes_of_the_same_name_keep_their_rows_and_new_ones_have_the_mean_and_spread_of_all():
    there = model(num_classes=3, null_class=True)
    here = replace(there, class_names=("c", "new", "a", "b"), network=replace(there.network, num_classes=4))
    before, after = network(there), UNet(here.network)
    drawn = after.get_parameter("label.weight").detach().clone()
    weights, (said,) = adapted(before.state_dict(), to_plain(there), to_plain(here), after.state_dict())
    old, new = before.get_parameter("label.weight"), weights["label.weight"]
    assert torch.equal(new[[0, 2, 3, 4]], old[[2, 0, 1, 3]])  # the null class is the last
    torch.testing.assert_close((new[1] - old[:3].mean(dim=0)) / drawn[1], old[:3].std(dim=0, correction=0))
    assert said == "of 3 classes 3 (c, a, b) keep their rows; 1 (new) begin with the mean and the spread of all"


def test_an_unconditional_network_that_is_given_classes_computes_the_same_with_any():
    before, after, (said,) = turned_into(model(), model(num_classes=2, null_class=True))
    assert all(torch.equal(outputs(before, images(3)), outputs(after, images(3), [y, 2])) for y in (0, 1))
    assert said == "the network is conditioned on 2 classes, whose rows begin at 0"


@pytest.mark.parametrize("null", [True, False])
def test_a_network_that_loses_its_classes_computes_what_it_did_for_the_null_class_or_the_mean_row(null):
    before, after, (said,) = turned_into(model(num_classes=2, null_class=null), model())
    if not null:
        with torch.no_grad():
            before.get_parameter("label.weight")[0] = before.get_parameter("label.weight").mean(dim=0)
    expected = outputs(before, images(3), [2, 2] if null else [0, 0])
    torch.testing.assert_close(outputs(after, images(3)), expected, rtol=1e-4, atol=1e-5)
    assert ("the row of the null class" if null else "the mean row of its 2 classes") in said


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3), (3, 4), (4, 3), (1, 4), (4, 1)])
def test_a_grey_picture_gives_the_same_grey_outputs_in_any_number_of_channels(before, after):
    there, here = model(before), model(after)
    if before == 4:  # of a network that looks at no alpha, since there is none in the other
        old = network(there)
        with torch.no_grad():
            old.encoder.conv_in.weight[:, 3] = 0
        weights = old.state_dict()
    else:
        weights = network(there).state_dict()
    old, new = UNet(there.network).eval(), UNet(here.network).eval()
    old.load_state_dict(weights)
    changed, (said,) = adapted(weights, to_plain(there), to_plain(here), new.state_dict())
    new.load_state_dict(changed)
    grey = images(1)
    mean_before, variance_before = outputs(old, grey.expand(-1, before, -1, -1)).split(before, dim=1)
    mean_after, variance_after = outputs(new, grey.expand(-1, after, -1, -1)).split(after, dim=1)
    for ours, theirs in ((mean_after, mean_before), (variance_after, variance_before)):
        expected, (colours_before, colours_after) = theirs[:, :3], (min(before, 3), min(after, 3))
        if colours_before != colours_after:
            expected = expected.mean(dim=1, keepdim=True).expand(-1, colours_after, -1, -1)
        torch.testing.assert_close(ours[:, :3], expected, rtol=1e-4, atol=1e-5)
    if after == 4:  # nothing is known of alpha: its eps is 0, and its variance like that of the colours
        assert not mean_after[:, 3].any()
        torch.testing.assert_close(variance_after[:, 3], variance_after[:, :3].mean(dim=1), rtol=1e-4, atol=1e-5)
    assert said.startswith(f"images had {before} channels and have {after}: ")


def test_colours_are_means_of_those_before():
    assert colour_map(3, 1).sum() == pytest.approx(1)
    assert torch.equal(colour_map(4, 3), torch.eye(4)[:3])
    assert torch.equal(colour_map(3, 4, alpha=True)[3], torch.full((3,), 1 / 3))


def test_a_learned_variance_begins_in_the_middle_of_its_range_and_can_be_left_out():
    learned, fixed = model(), model(variance="small")
    before, after, said = turned_into(fixed, learned)
    mean, position = outputs(after, images(3)).chunk(2, dim=1)
    torch.testing.assert_close(mean, outputs(before, images(3)), rtol=1e-5, atol=1e-5)
    assert not position.any()
    assert said == ["the learned variance begins in the middle of its range"]
    before, after, _ = turned_into(learned, fixed)
    torch.testing.assert_close(outputs(after, images(3)), outputs(before, images(3))[:, :3], rtol=1e-5, atol=1e-5)


def test_another_image_size_keeps_all_weights_and_says_so():
    before, after, said = turned_into(model(), model(size=16))
    assert torch.equal(outputs(before, images(3, size=16)), outputs(after, images(3, size=16)))
    assert said == ["image_size was 8 and is 16"]


def test_the_positions_of_attention_pooling_are_resized_like_a_picture():
    table = torch.randn(1 + 16, 5)
    torch.testing.assert_close(resized_positions(table, 4), table)
    constant = torch.cat([table[:1], table[1:2].expand(16, -1)])
    torch.testing.assert_close(resized_positions(constant, 7), table[[0] + 49 * [1]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": {"blocks_per_level": 2}}, "network.blocks_per_level is 1 in the weights that --from begins with, "
         "and 2 was asked for, but that is another network; leave --network.blocks_per_level out"),
        ({"network": {"attention_sizes": []}}, "their attention at image_size 8 is at .8.; leave --network.attention"),
        ({"prediction": "v"}, "prediction is eps .* and v was asked for, but their outputs mean something else"),
        ({"variance": "learned"}, "variance is learned_range .* and learned was asked for"),
        ({"network": {"in_channels": 2}}, "only 1, 3 and 4 can follow"),
    ],
)  # fmt: skip
def test_what_weights_cannot_follow_is_refused_naming_both_values(change, message):
    plain = to_plain(model())
    here = plain | change | {"network": plain["network"] | change.get("network", {})}
    with pytest.raises(ValueError, match=message):
        adapted({}, plain, here, {})


def test_weights_that_are_incomplete_are_refused():
    plain, state = to_plain(model()), network(model()).state_dict()
    short = {name: tensor for name, tensor in state.items() if name != "norm_out.bias"}
    with pytest.raises(ValueError, match=r'own description: "norm_out.bias" is None in the file, \(32,\) in the'):
        adapted(short, plain, plain, state)


def test_a_head_of_another_target_begins_anew():
    def described(**other: Any) -> dict[str, Any]:
        pooling = ClassifierConfig(**vars(tiny.encoder()), num_classes=2, in_channels=1)
        return {"network": to_plain(pooling), "chain": None, **other}

    net = NoisyClassifier(ClassifierConfig(**vars(tiny.encoder()), num_classes=2, in_channels=1))
    state = net.state_dict()
    initial = {name: tensor + 1 for name, tensor in state.items()}
    of_columns = {"target": "attributes", "columns": {"names": ["tall", "thin"]}}
    weights, (said,) = adapted(state, described(class_names=["a", "b"]), described(**of_columns), initial)
    assert torch.equal(weights["head.bias"], initial["head.bias"])
    assert torch.equal(weights["encoder.conv_in.weight"], state["encoder.conv_in.weight"])
    assert said == "the target was classes (a, b) and is attributes (tall, thin): the head begins anew"
    others = {"target": "attributes", "columns": {"names": ["thin", "old"]}}
    weights, _ = adapted(state, described(**of_columns), described(**others), initial)
    assert torch.equal(weights["head.weight"], torch.stack([state["head.weight"][1], torch.zeros(32)]))
